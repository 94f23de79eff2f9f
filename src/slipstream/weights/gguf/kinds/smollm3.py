"""SmolLM3. Rope turns neighbours; which layers have none is not stated, it is every fourth as in the family."""

from slipstream.weights.gguf.metadata import FIELDS
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS
from slipstream.weights.gguf.names import neighbours as place

ARCHITECTURE = "SmolLM3ForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
