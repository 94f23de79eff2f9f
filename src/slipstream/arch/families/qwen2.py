"""Qwen 1.5, 2 and 2.5 (dense): Llama with a bias on q, k and v; upper layers may have a window. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("Qwen2ForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias=True)
    return common.model(fields, "qwen2", layers(fields, mixer))


def layers(fields: Fields, mixer: AttentionSpec) -> list[LayerSpec]:
    """The layers of a Qwen model: those from `max_window_layers` on have the window, if windows are in use at all."""
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    used = fields.flag("use_sliding_window", False)
    first, window = fields.get("max_window_layers", 28), fields.get("sliding_window", 4096)
    narrow = common.layer_types(fields, (used and number >= first for number in range(fields.whole("num_hidden_layers"))))
    if any(narrow):
        window = fields.whole("sliding_window", 4096)
    return [LayerSpec(replace(mixer, window=window) if here else mixer, ffn) for here in narrow]
