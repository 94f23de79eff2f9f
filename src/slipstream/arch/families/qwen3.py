"""Qwen 3 (dense): q and k are normed per head. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.families.qwen2 import layers
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, ModelSpec

ARCHITECTURES = ("Qwen3ForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS
HEAD_DIM = 128  # where the field is absent


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields({"head_dim": HEAD_DIM, **config}, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias, qk_norm="head")
    return common.model(fields, "qwen3", layers(fields, mixer))
