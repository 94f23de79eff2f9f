"""gpt-oss 20b and 120b: experts with biases and a clamped activation, sinks, windows on every other layer. Data only."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from typing import Any

from slipstream.arch import common
from slipstream.arch.fields import Fields
from slipstream.arch.names import Place, whole
from slipstream.arch.spec import AttentionSpec, LayerSpec, ModelSpec, MoeSpec, RouterSpec, TensorSpec

ARCHITECTURES = ("GptOssForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {
    **{name: stored for name, stored in common.NAMES.items() if ".ffn." not in name or name.endswith(".norm")},
    "layers.{}.mixer": "model.layers.{}.self_attn",  # its sinks
    "layers.{}.ffn.router": "model.layers.{}.mlp.router",
    **{f"layers.{{}}.ffn.experts.{{}}.{part}": "model.layers.{}.mlp.experts.gate_up_proj" for part in ("gate", "up")},
    "layers.{}.ffn.experts.{}.down": "model.layers.{}.mlp.experts.down_proj",
}
_HARMLESS = ("output_router_logits", "router_aux_loss_coef", "experts_per_token", "initial_context_length")


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", True)
    wide = AttentionSpec(heads, kv_heads, head_dim, common.rope(fields, head_dim, theta=150000.0), bias, bias, sinks=True)
    narrow = replace(wide, window=fields.whole("sliding_window", 128))
    fields.only("hidden_act", ("silu",), "silu")  # within the clamped activation
    ffn = MoeSpec(
        RouterSpec(*common.expert_counts(fields, "num_local_experts", 128, 4)), fields.whole("hidden_size"),
        fields.whole("intermediate_size"), bias=True, activation="clamped",
        limit=fields.number("swiglu_limit", 7.0), slope=fields.number("swiglu_alpha", 1.702),
    )  # fmt: skip
    layers = [LayerSpec(narrow if here else wide, ffn) for here in common.layer_types(fields, cycle((True, False)))]
    return common.model(fields, "gpt_oss", layers, harmless=_HARMLESS, norm_eps=fields.number("rms_norm_eps", 1e-5))


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Experts are stacked, their weights transposed; of gate and up, rows take turns."""
    parts = parameter.name.split(".")
    if "experts" not in parts:
        return whole(NAMES, parameter)
    number, part, ending, ffn = int(parts[4]), parts[5], parts[6], spec.layers[0].ffn
    name = whole(NAMES, parameter).name.removesuffix(f".{ending}")
    outputs = spec.hidden if part == "down" else 2 * ffn.width
    rows = None if part == "down" else range(("gate", "up").index(part), outputs, 2)
    if ending == "bias":
        return Place(f"{name}_bias", (ffn.router.experts, outputs), rows=rows, number=number)
    inputs = ffn.width if part == "down" else spec.hidden
    return Place(name, (ffn.router.experts, inputs, outputs), transposed=True, rows=rows, number=number)
