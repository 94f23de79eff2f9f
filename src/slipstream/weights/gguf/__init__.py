"""GGUF files as checkpoints: what their metadata means, what their tensors are called, one file per architecture in `kinds`."""

from slipstream.weights.gguf.checkpoint import GgufCheckpoint

__all__ = ["GgufCheckpoint"]
