"""Qwen 3 MoE (30B-A3B, 235B-A22B, Coder): Qwen 3 with experts; a window, where there is one, holds for all layers. Data only."""

from collections.abc import Mapping
from typing import Any

from slipstream.arch import common
from slipstream.arch.families.qwen2_moe import HARMLESS, experts, mixed
from slipstream.arch.families.qwen2_moe import NAMES as WITH_SHARED
from slipstream.arch.fields import Fields
from slipstream.arch.spec import AttentionSpec, FfnSpec, LayerSpec, ModelSpec

ARCHITECTURES = ("Qwen3MoeForCausalLM",)
NOT_WEIGHTS = common.NOT_WEIGHTS
NAMES = {name: stored for name, stored in WITH_SHARED.items() if ".shared" not in name}


def to_spec(config: Mapping[str, Any]) -> ModelSpec:
    """Reads a config.json; see the Llama family for errors."""
    fields = Fields(config, "config.json")
    heads, kv_heads, head_dim = common.head_counts(fields)
    bias = fields.flag("attention_bias", False)
    window = fields.whole("sliding_window", 4096) if fields.flag("use_sliding_window", False) else 0
    rope = common.rope(fields, head_dim)
    mixer = AttentionSpec(heads, kv_heads, head_dim, rope, bias, bias, window=window, qk_norm="head")
    ffn = FfnSpec(fields.whole("intermediate_size"), activation=common.activation(fields, "hidden_act", "silu"))
    layers = [LayerSpec(mixer, ffn)] * fields.whole("num_hidden_layers")
    harmless = (*HARMLESS, "max_window_layers", "sliding_window")
    return common.model(fields, "qwen3_moe", mixed(fields, layers, experts(fields, 128, 8, 768)), harmless=harmless)
