"""Gemma 2: windows on every other layer, bounded scores and logits, norms on both sides of each sub-layer. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

from slipstream.arch import common
from slipstream.arch.families.gemma import HARMLESS, HEAD_DIM, embedding, plus_one
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, TensorSpec

ARCHITECTURES = ("Gemma2ForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.mixer.post_norm": "model.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.norm": "model.layers.{}.pre_feedforward_layernorm",
    "layers.{}.ffn.post_norm": "model.layers.{}.post_feedforward_layernorm",
}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields({"head_dim": HEAD_DIM, **config}, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    wide = AttentionSpec(
        *(heads, kv_heads, head_dim, common.rope(fields, head_dim)),
        scale=fields.number("query_pre_attn_scalar", 256.0) ** -0.5,
        softcap=softcap(fields, "attn_logit_softcapping", 50.0),
    )
    wide = replace(wide, bias=fields.flag("attention_bias", False), o_bias=fields.flag("attention_bias", False))
    narrow = replace(wide, window=fields.whole("sliding_window", 4096))
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_activation", "gelu_pytorch_tanh"))
    kinds = common.layer_types(fields, cycle((True, False)))
    layers = [LayerSpec(narrow if here else wide, ffn, post_norm=True) for here in kinds]
    cap = softcap(fields, "final_logit_softcapping", 30.0)
    return common.model(fields, "gemma2", layers, harmless=("hidden_act", *HARMLESS), logit_softcap=cap, **embedding(fields))


def softcap(fields: Fields, name: str, default: float) -> float:
    """A bound that may be switched off by null; 0 for none."""
    if name in fields.values and fields.get(name, None) is None:
        return 0.0
    return fields.number(name, default)


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Norms are stored as their distance from 1."""
    return plus_one(NAMES, parameter)
