"""Floor 0: checkpoint files as bytes: safetensors and GGUF, where each tensor lies, every length checked against the file; no torch."""
