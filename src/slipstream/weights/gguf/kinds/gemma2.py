"""Gemma 2. Not stated: the scale of the scores, and which layers have a window."""

from typing import Any

from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata, head_width, windowed
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Gemma2ForCausalLM"
FIELDS = {**COMMON, "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}
LARGEST = 46  # layers of the 27B model, whose scores are scaled by hidden / heads instead of the width of a head
PERIOD = 2

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """The rules that llama.cpp goes by."""
    config["layer_types"] = windowed(file, PERIOD, config.get("num_hidden_layers"))
    config["query_pre_attn_scalar"] = score_scale(config, LARGEST)


def score_scale(config: dict[str, Any], largest: int) -> int | None:
    """`query_pre_attn_scalar`. largest: layers of the model that has another rule."""
    other = {**config, "head_dim": None} if config.get("num_hidden_layers") == largest else config
    return head_width(other)
