"""Qwen 1.5 and 2 MoE: Qwen 2 with experts and a shared expert behind a gate. Data only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from slipstream.arch import common
from slipstream.arch.families.qwen2 import layers
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, MoeSpec, RouterSpec

ARCHITECTURES = ("Qwen2MoeForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **common.NAMES,
    "layers.{}.ffn.router": "model.layers.{}.mlp.gate",
    **{f"layers.{{}}.ffn.experts.{{}}.{part}": f"model.layers.{{}}.mlp.experts.{{}}.{part}_proj" for part in ("gate", "up", "down")},
    **{f"layers.{{}}.ffn.shared.{part}": f"model.layers.{{}}.mlp.shared_expert.{part}_proj" for part in ("gate", "up", "down")},
    "layers.{}.ffn.shared_gate": "model.layers.{}.mlp.shared_expert_gate",
}
HARMLESS = ("output_router_logits", "router_aux_loss_coef", "num_local_experts")  # of training; a second name of num_experts


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    mixer = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim), bias=fields.flag("qkv_bias", True))
    shared = fields.whole("shared_expert_intermediate_size", 5632)
    sparse = replace(experts(fields, 60, 4, 1408), shared=shared, shared_gate=True)
    return common.model(fields, "qwen2_moe", mixed(fields, layers(fields, mixer), sparse), harmless=HARMLESS)


def experts(fields: Fields, count: int, chosen: int, width: int) -> MoeSpec:
    """The experts of a Qwen model; the arguments are what holds where no field says it."""
    router = RouterSpec(*common.expert_counts(fields, "num_experts", count, chosen), normed=fields.flag("norm_topk_prob", False))
    activation = common.activation(fields, "hidden_act", "silu")
    return MoeSpec(router, fields.whole("hidden_size"), fields.whole("moe_intermediate_size", width), activation=activation)


def mixed(fields: Fields, dense: Sequence[LayerSpec], sparse: MoeSpec) -> list[LayerSpec]:
    """The layers with experts in every `decoder_sparse_step`-th of them, but not in `mlp_only_layers`."""
    step, plain = fields.whole("decoder_sparse_step", 1), fields.get("mlp_only_layers", [])
    if not isinstance(plain, list) or any(type(number) is not int for number in plain):
        raise fields.error("mlp_only_layers", plain, "must be a list of layer numbers")
    chosen = [(number + 1) % step == 0 and number not in plain for number in range(len(dense))]
    return [replace(layer, ffn=sparse) if here else layer for here, layer in zip(chosen, dense, strict=True)]
