"""SmolLM3: Llama where some layers, every fourth by default, have no position embedding. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.rope import NO_ROPE
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("SmolLM3ForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias, count = fields.flag("attention_bias", False), fields.whole("num_hidden_layers")
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim, theta=2e6), bias, bias)
    ffn = FfnSpec(fields.whole("intermediate_size"), fields.flag("mlp_bias", False), common.activation(fields, "hidden_act", "silu"))
    every = fields.whole("no_rope_layer_interval", 4)
    turned = fields.get("no_rope_layers", [int((number + 1) % every != 0) for number in range(count)])  # 1: rope, 0: none
    if not isinstance(turned, list) or len(turned) != count:
        raise fields.error("no_rope_layers", turned, f"must be a list of {count} numbers, 0 for a layer without rope")
    used = fields.flag("use_sliding_window", False)
    narrow = common.layer_types(fields, (used and not rope for rope in turned))
    layers = []
    for rope, here in zip(turned, narrow, strict=True):
        own = mixer if rope else replace(mixer, rope=NO_ROPE)
        layers.append(LayerSpec(replace(own, window=fields.whole("sliding_window")) if here else own, ffn))
    tied, read = fields.flag("tie_word_embeddings", True), ("max_window_layers", "sliding_window")
    return common.model(fields, "smollm3", layers, harmless=read, tied=tied)
