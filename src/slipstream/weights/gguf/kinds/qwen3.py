"""Qwen 3."""

from slipstream.weights.gguf.metadata import FIELDS
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Qwen3ForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
