"""Mixtral 8x7B and 8x22B: Mistral with experts. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, MoeSpec, RouterSpec

ARCHITECTURES = ("MixtralForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **{name: stored for name, stored in common.NAMES.items() if ".ffn." not in name or name.endswith(".norm")},
    "layers.{}.ffn.router": "model.layers.{}.block_sparse_moe.gate",
    "layers.{}.ffn.experts.{}.gate": "model.layers.{}.block_sparse_moe.experts.{}.w1",
    "layers.{}.ffn.experts.{}.up": "model.layers.{}.block_sparse_moe.experts.{}.w3",
    "layers.{}.ffn.experts.{}.down": "model.layers.{}.block_sparse_moe.experts.{}.w2",
}
_HARMLESS = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")  # of training


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    rope = common.rope(fields, head_dim, theta=1e6)
    mixer = AttentionSpec(heads, kv_heads, head_dim, rope, window=common.window(fields))
    router = RouterSpec(*common.expert_counts(fields, "num_local_experts", 8, 2))
    activation = common.activation(fields, "hidden_act", "silu")
    ffn = MoeSpec(router, fields.whole("hidden_size"), fields.whole("intermediate_size"), activation=activation)
    return common.model(
        fields, "mixtral", (LayerSpec(mixer, ffn),) * fields.whole("num_hidden_layers"), harmless=_HARMLESS,
        norm_eps=fields.number("rms_norm_eps", 1e-5),
    )  # fmt: skip
