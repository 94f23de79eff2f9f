"""Phi-3, Phi-3.5 mini, Phi-4 and Phi-4-mini: Llama with fused q, k, v and gate, up, a window, partial rope and LongRoPE. Data only.

The set of LongRoPE divisors is chosen at load, from the longest request that may come: see arch/rope.py.
"""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, stacked, whole
from slipstream.arch.rope import partial_order
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec, TensorSpec

ARCHITECTURES = ("Phi3ForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    **{f"layers.{{}}.mixer.{part}": "model.layers.{}.self_attn.qkv_proj" for part in "qkv"},
    **{f"layers.{{}}.ffn.{part}": "model.layers.{}.mlp.gate_up_proj" for part in ("gate", "up")},
}
_HARMLESS = ("full_attn_mod", "interpolate_factor")


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
        fields.absent(name, "linear layers of this family have no bias")
    heads, kv_heads, head_dim = common.head_counts(fields)
    rotated = common.rotated(fields, head_dim)
    rope = common.rope(fields, head_dim, types=("default", "longrope", "su"), rotated=rotated)
    mixer = AttentionSpec(heads, kv_heads, head_dim, rope, window=common.window(fields))
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    return common.model(
        fields, "phi3", (LayerSpec(mixer, ffn),) * fields.whole("num_hidden_layers"), harmless=_HARMLESS,
        norm_eps=fields.number("rms_norm_eps", 1e-5), max_len=fields.whole("max_position_embeddings", 4096),
    )  # fmt: skip


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """q, k and v are one tensor, so are gate and up; where a part of a head is rotated, its pairs come first in ours."""
    found, part = whole(NAMES, parameter), parameter.name.split(".")[-2]
    mixer, ffn = spec.layers[0].mixer, spec.layers[0].ffn
    if part in ("q", "k", "v"):
        rotated = mixer.rope.rotated
        order = None if rotated is None else partial_order(mixer.head_dim, rotated)
        rows = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim
        return Place(found.name, (rows, *parameter.shape[1:]), rows=stacked(mixer, part, order))
    if part in ("gate", "up"):
        start = 0 if part == "gate" else ffn.width
        return Place(found.name, (2 * ffn.width, spec.hidden), rows=range(start, start + ffn.width))
    return found
