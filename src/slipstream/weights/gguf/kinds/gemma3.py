"""Gemma 3, text part. Not stated: the scale of the scores, which layers have a window, and the rope base of those."""

from typing import Any

from slipstream.weights.gguf.kinds.gemma2 import FIELDS, score_scale
from slipstream.weights.gguf.metadata import Metadata, windowed
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Gemma3ForCausalLM"
LARGEST = 62  # layers of the 27B model, see gemma2
PERIOD = 6
NARROW_ROPE = 10000.0

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """The rules that llama.cpp goes by. Without a window there is one kind of layer."""
    period = PERIOD if config.get("sliding_window") else 1
    config["layer_types"] = windowed(file, period, config.get("num_hidden_layers"))
    config["query_pre_attn_scalar"] = score_scale(config, LARGEST)
    config["rope_local_base_freq"] = file.get("rope.freq_base_swa", NARROW_ROPE)
