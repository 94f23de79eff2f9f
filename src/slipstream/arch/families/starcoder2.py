"""StarCoder 2: LayerNorm, plain gelu ffn, biases, a window. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, PlainFfnSpec

ARCHITECTURES = ("Starcoder2ForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.ffn.up": "model.layers.{}.mlp.c_fc",
    "layers.{}.ffn.down": "model.layers.{}.mlp.c_proj",
}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    fields.only("mlp_type", ("default",), "default")
    fields.only("norm_type", ("layer_norm",), "layer_norm")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("use_bias", True)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias, common.window(fields))
    activation = common.activation(fields, "hidden_act", "gelu_pytorch_tanh", ("gelu", "gelu_tanh"))
    layer = LayerSpec(mixer, PlainFfnSpec(fields.whole("intermediate_size"), bias, activation))
    return common.model(
        fields, "starcoder2", (layer,) * fields.whole("num_hidden_layers"),
        norm="layer", norm_eps=fields.number("norm_epsilon", 1e-5), tied=fields.flag("tie_word_embeddings", True),
    )  # fmt: skip
