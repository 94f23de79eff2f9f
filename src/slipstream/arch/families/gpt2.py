"""GPT-2: learned positions, LayerNorm, plain gelu ffn, matrices stored as [inputs, outputs]. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, stacked, whole
from slipstream.arch.rope import NO_ROPE
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, PlainFfnSpec, TensorSpec

ARCHITECTURES = ("GPT2LMHeadModel",)
PREFIX = "transformer."
NOT_WEIGHTS = (r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",)
NAMES = {
    "embed": "transformer.wte",
    "positions": "transformer.wpe",
    "layers.{}.mixer.norm": "transformer.h.{}.ln_1",
    **{f"layers.{{}}.mixer.{part}": "transformer.h.{}.attn.c_attn" for part in "qkv"},
    "layers.{}.mixer.o": "transformer.h.{}.attn.c_proj",
    "layers.{}.ffn.norm": "transformer.h.{}.ln_2",
    "layers.{}.ffn.up": "transformer.h.{}.mlp.c_fc",
    "layers.{}.ffn.down": "transformer.h.{}.mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
_HARMLESS = (
    *("n_ctx", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    *("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "reorder_and_upcast_attn", "predict_special_tokens"),
    *("attention_softmax_in_fp32", "validate_runner_input", "inference_runner", "max_batch_size", "max_sequence_length", "pad_key_length"),
    *("pre_allocate_kv_cache", "num_key_value_heads"),
)


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    return learned_positions(Fields(config, "config.json"), "gpt2", multi_query=False)


def learned_positions(fields: Fields, family: str, multi_query: bool) -> ModelSpec:
    """GPT-2 and what has its fields."""
    fields.absent("scale_attn_by_inverse_layer_idx", "take a model without it")
    fields.absent("add_cross_attention", "take a decoder without an encoder")
    hidden, heads = fields.whole("n_embd"), fields.whole("n_head")
    if hidden % heads or hidden // heads % 2:
        raise fields.error("n_head", heads, f"must divide n_embd={hidden} into heads of an even width")
    scale = None if fields.flag("scale_attn_weights", True) else 1.0
    mixer = AttentionSpec(heads, 1 if multi_query else heads, hidden // heads, NO_ROPE, bias=True, o_bias=True, scale=scale)
    activation = common.activation(fields, "activation_function", "gelu_new", ("gelu", "gelu_tanh"))
    layer = LayerSpec(mixer, PlainFfnSpec(fields.whole("n_inner", 4 * hidden), activation=activation))
    positions = fields.whole("n_positions", 1024)
    return common.model(
        fields, family, (layer,) * fields.whole("n_layer"), harmless=_HARMLESS, hidden=hidden, max_len=positions, positions=positions,
        norm="layer", norm_eps=fields.number("layer_norm_epsilon", 1e-5), tied=fields.flag("tie_word_embeddings", True),
    )  # fmt: skip


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Matrices of layers are transposed; q, k and v are one."""
    found, part = whole(NAMES, parameter), parameter.name.split(".")[-2]
    if parameter.role == "linear":
        found = replace(found, shape=parameter.shape[::-1], transposed=True)
    if part in ("q", "k", "v"):
        found = replace(found, shape=(*found.shape[:-1], 3 * spec.hidden), rows=stacked(spec.layers[0].mixer, part))
    return found
