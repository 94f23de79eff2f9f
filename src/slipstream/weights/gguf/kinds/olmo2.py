"""OLMo 2. OLMo 3 is stored under the same name and has windows, which show in its keys."""

from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Olmo2ForCausalLM"
FIELDS = {key: field for key, field in COMMON.items() if key != "attention.sliding_window"}  # refused: nobody asks for it

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
