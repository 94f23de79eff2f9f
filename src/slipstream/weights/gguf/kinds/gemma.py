"""Gemma 1. The converter adds the 1 that norms are stored without; the head is the embedding."""

from slipstream.weights.gguf.metadata import FIELDS
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "GemmaForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
