"""OLMo 2: sub-layers read the stream itself and are normed behind; q and k are normed over all heads together. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("Olmo2ForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.mixer.post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.post_norm": "model.layers.{}.post_feedforward_layernorm",
}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias, qk_norm="full")
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    layer = LayerSpec(mixer, ffn, pre_norm=False, post_norm=True)
    return common.model(fields, "olmo2", (layer,) * fields.whole("num_hidden_layers"), norm_eps=fields.number("rms_norm_eps", 1e-5))
