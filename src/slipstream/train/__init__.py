"""Training: the built-in demo model and its small sibling from scratch, and heads that guess ahead for any model.

Owns data preparation, the training loops and the export to ordinary checkpoint folders. The loops know nothing of the engine: what they
write is loaded like anybody's checkpoint. Only train/target.py and train/drafter.py use it, to read text with any model and to measure.
"""
