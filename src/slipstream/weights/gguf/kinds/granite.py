"""Granite 3. Rope turns neighbours; the four multipliers have other names."""

from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS
from slipstream.weights.gguf.names import neighbours as place

ARCHITECTURE = "GraniteForCausalLM"
FIELDS = {
    **COMMON, "attention.scale": "attention_multiplier", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier", "logit_scale": "logits_scaling",
}  # fmt: skip

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "place"]
