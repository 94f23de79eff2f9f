"""StarCoder 2. Not stated: the window, which is the same in all three sizes."""

from typing import Any

from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Starcoder2ForCausalLM"
FIELDS = {**COMMON, "attention.layer_norm_epsilon": "norm_epsilon"}
WINDOW = 4096

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """Biases show in the tensors."""
    config.setdefault("sliding_window", WINDOW)
    config["use_bias"] = "blk.0.attn_q.bias" in file.shapes
