"""Gemma 1: Llama with scaled embeddings, norms stored as weight - 1, and a gelu gate. Data only."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, whole
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, TensorSpec

ARCHITECTURES = ("GemmaForCausalLM",)
NAMES, NOT_WEIGHTS = common.NAMES, common.NOT_WEIGHTS
HEAD_DIM = 256  # where the field is absent


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors. `hidden_act` of early files says gelu and means its tanh form."""
    fields = Fields({"head_dim": HEAD_DIM, **config}, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias)
    fields.only("hidden_act", ("gelu", "gelu_pytorch_tanh"), "gelu_pytorch_tanh")
    activation = common.activation(fields, "hidden_activation", "gelu_pytorch_tanh")
    layer = LayerSpec(mixer, FfnSpec(fields.whole("intermediate_size"), activation=activation))
    return common.model(fields, "gemma", (layer,) * fields.whole("num_hidden_layers"), **embedding(fields), harmless=HARMLESS)


HARMLESS = ("use_bidirectional_attention",)  # null or false: a decoder


def embedding(fields: Fields) -> dict[str, Any]:
    """Fields of ModelSpec that all Gemmas share: the embedding is the head, and is scaled on the way in."""
    fields.absent("use_bidirectional_attention", "this family looks back only")
    return {
        "tied": fields.flag("tie_word_embeddings", True),
        "embed_scale": math.sqrt(fields.whole("hidden_size")),
        "max_len": fields.whole("max_position_embeddings", 8192),
    }


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Norms are stored as their distance from 1."""
    return plus_one(NAMES, parameter)


def plus_one(names: Mapping[str, str], parameter: TensorSpec) -> Place:
    """Where a parameter lies; 1 is added to norms."""
    found = whole(names, parameter)
    return replace(found, plus=1.0) if parameter.role == "norm" else found
