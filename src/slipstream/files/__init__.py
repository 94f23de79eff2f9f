"""Floor 0: checkpoint files as bytes: where each tensor lies, every length checked against the file; no torch."""
