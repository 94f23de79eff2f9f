"""Phi-1, Phi-1.5 and Phi-2: mixer and ffn side by side behind one LayerNorm, partial rope, biases everywhere. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, heads, whole
from slipstream.arch.rope import partial_order
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, PlainFfnSpec, TensorSpec

ARCHITECTURES = ("PhiForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.mixer.o": "model.layers.{}.self_attn.dense",
    "layers.{}.ffn.up": "model.layers.{}.mlp.fc1",
    "layers.{}.ffn.down": "model.layers.{}.mlp.fc2",
    "norm": "model.final_layernorm",
}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    fields.absent("qk_layernorm", "take a model without it")
    count, kv_heads, head_dim = common.head_counts(fields)
    rope = common.rope(fields, head_dim, rotated=common.rotated(fields, head_dim, default=0.5))
    mixer = AttentionSpec(count, kv_heads, head_dim, rope, bias=True, o_bias=True)
    activation = common.activation(fields, "hidden_act", "gelu_new", ("gelu", "gelu_tanh"))
    layer = LayerSpec(mixer, PlainFfnSpec(fields.whole("intermediate_size"), activation=activation), parallel=True, one_norm=True)
    return common.model(
        fields, "phi", (layer,) * fields.whole("num_hidden_layers"),
        norm="layer", norm_eps=fields.number("layer_norm_eps", 1e-5), head_bias=True,
    )  # fmt: skip


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """In each head of q and k, the rotated pairs come first in ours."""
    found, part, mixer = whole(NAMES, parameter), parameter.name.split(".")[-2], spec.layers[0].mixer
    if part not in ("q", "k") or mixer.rope.rotated is None:
        return found
    order = partial_order(mixer.head_dim, mixer.rope.rotated)
    return replace(found, rows=heads(mixer.heads if part == "q" else mixer.kv_heads, mixer.head_dim, order))
