"""Training from scratch: the built-in demo model, its small sibling, and later the drafters.

Owns data preparation, the training loop and the export to an ordinary checkpoint folder. Knows nothing of the engine:
what it writes is loaded like anybody's checkpoint.
"""
