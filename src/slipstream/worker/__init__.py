"""Floor 7: runs plans on a device. Owns page tensors, slots and the batch; knows nothing of queues, users or text."""
