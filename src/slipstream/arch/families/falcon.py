"""Falcon (7B, 40B, 180B, Falcon 2 11B): mixer and ffn side by side, fused q, k, v per group of heads. Data only.

Models with ALiBi (Falcon-RW) are refused: their positions are not rotated.
"""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, checkpoint_name, grouped
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, PlainFfnSpec, TensorSpec

ARCHITECTURES = ("FalconForCausalLM",)
PREFIX = "transformer."
NOT_WEIGHTS = (r"(transformer\.)?h\.\d+\.self_attention\.(rotary_emb|maybe_rotary)\.inv_freq",)
NAMES = {
    "embed": "transformer.word_embeddings",
    "layers.{}.mixer.norm": "transformer.h.{}.input_layernorm",
    **{f"layers.{{}}.mixer.{part}": "transformer.h.{}.self_attention.query_key_value" for part in "qkv"},
    "layers.{}.mixer.o": "transformer.h.{}.self_attention.dense",
    "layers.{}.ffn.norm": "transformer.h.{}.post_attention_layernorm",
    "layers.{}.ffn.up": "transformer.h.{}.mlp.dense_h_to_4h",
    "layers.{}.ffn.down": "transformer.h.{}.mlp.dense_4h_to_h",
    "norm": "transformer.ln_f",
    "head": "lm_head",
}
_TWO_NORMS = {"layers.{}.mixer.norm": "transformer.h.{}.ln_attn", "layers.{}.ffn.norm": "transformer.h.{}.ln_mlp"}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    fields.absent("alibi", "take a Falcon with rotary positions")
    newer, parallel = fields.flag("new_decoder_architecture", False), fields.flag("parallel_attn", True)
    if newer and not parallel:
        raise fields.error("parallel_attn", parallel, "must be true where new_decoder_architecture is")
    count = fields.whole("num_attention_heads")
    several = fields.whole("num_kv_heads", count) if newer else count
    fields.get("num_kv_heads", None)
    kv_heads = 1 if fields.flag("multi_query", True) and not newer else several
    heads, kv_heads, head_dim = common.head_counts(Fields({**config, "num_key_value_heads": kv_heads}, "config.json"))
    bias = fields.flag("bias", False)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias, bias)
    activation = common.activation(fields, "activation", "gelu", ("gelu", "gelu_tanh"))
    ffn = PlainFfnSpec(fields.whole("ffn_hidden_size", 4 * fields.whole("hidden_size")), bias, activation)
    norms = fields.only("num_ln_in_parallel_attn", (1, 2) if newer else (1,), 2 if newer else 1)
    layer = LayerSpec(mixer, ffn, parallel=parallel, one_norm=parallel and norms == 1)
    return common.model(
        fields, "falcon", (layer,) * fields.whole("num_hidden_layers"),
        norm="layer", norm_eps=fields.number("layer_norm_epsilon", 1e-5), tied=fields.flag("tie_word_embeddings", True),
    )  # fmt: skip


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """q, k and v of a group of heads lie together; two norms side by side have names of their own."""
    layer, part = spec.layers[0], parameter.name.split(".")[-2]
    two_norms = layer.parallel and not layer.one_norm
    name = checkpoint_name(NAMES | _TWO_NORMS if two_norms else NAMES, parameter.name)
    if part not in ("q", "k", "v"):
        return Place(name, parameter.shape)
    rows = (layer.mixer.heads + 2 * layer.mixer.kv_heads) * layer.mixer.head_dim
    return Place(name, (rows, *parameter.shape[1:]), rows=grouped(layer.mixer, part))
