"""GPT-NeoX and Pythia: mixer and ffn side by side with a LayerNorm each, fused q, k, v per head, partial rope. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, grouped, whole
from slipstream.arch.rope import partial_order
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, PlainFfnSpec, TensorSpec

ARCHITECTURES = ("GPTNeoXForCausalLM",)
NOT_WEIGHTS = (r"gpt_neox\.layers\.\d+\.attention\.(bias|masked_bias|rotary_emb\.inv_freq)",)
NAMES = {
    "embed": "gpt_neox.embed_in",
    "layers.{}.mixer.norm": "gpt_neox.layers.{}.input_layernorm",
    **{f"layers.{{}}.mixer.{part}": "gpt_neox.layers.{}.attention.query_key_value" for part in "qkv"},
    "layers.{}.mixer.o": "gpt_neox.layers.{}.attention.dense",
    "layers.{}.ffn.norm": "gpt_neox.layers.{}.post_attention_layernorm",
    "layers.{}.ffn.up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "layers.{}.ffn.down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
}
_HARMLESS = ("classifier_dropout", "rotary_emb_base", "rotary_pct", "is_decoder")


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    rotated = common.rotated(fields, head_dim, "rotary_pct", 0.25)
    rope = common.rope(fields, head_dim, rotated=rotated, theta=fields.number("rotary_emb_base", 10000.0))
    bias = fields.flag("attention_bias", True)
    mixer = AttentionSpec(heads, kv_heads, head_dim, rope, bias, bias)
    activation = common.activation(fields, "hidden_act", "gelu", ("gelu", "gelu_tanh"))
    ffn = PlainFfnSpec(fields.whole("intermediate_size"), activation=activation)
    layer = LayerSpec(mixer, ffn, parallel=fields.flag("use_parallel_residual", True))
    return common.model(
        fields, "gpt_neox", (layer,) * fields.whole("num_hidden_layers"), harmless=_HARMLESS,
        norm="layer", norm_eps=fields.number("layer_norm_eps", 1e-5),
    )  # fmt: skip


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """q, k and v of a head lie together; where a part of a head is rotated, its pairs come first in ours."""
    found, part, mixer = whole(NAMES, parameter), parameter.name.split(".")[-2], spec.layers[0].mixer
    if part not in ("q", "k", "v"):
        return found
    order = None if mixer.rope.rotated is None else partial_order(mixer.head_dim, mixer.rope.rotated)
    rows = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
    return Place(found.name, (rows, *parameter.shape[1:]), rows=grouped(mixer, part, order))
