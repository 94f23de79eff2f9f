"""Qwen 1.5, 2 and 2.5."""

from slipstream.weights.gguf.metadata import FIELDS
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Qwen2ForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
