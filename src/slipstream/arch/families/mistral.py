"""Mistral (7B, Nemo, Small): Llama with a window. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("MistralForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS
WINDOW = 4096  # where the field is absent; null means none


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), window=common.window(fields, WINDOW))
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    return common.model(fields, "mistral", (LayerSpec(mixer, ffn),) * fields.whole("num_hidden_layers"))
