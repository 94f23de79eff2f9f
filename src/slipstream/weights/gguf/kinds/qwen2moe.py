"""Qwen 1.5 and 2 MoE: experts in every layer, a shared one behind a gate, whose only row is stored as a vector."""

from dataclasses import replace
from typing import Any

from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import Metadata
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS

ARCHITECTURE = "Qwen2MoeForCausalLM"
FIELDS = {**COMMON, "expert_count": "num_experts", "expert_used_count": "num_experts_per_tok"}

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """Widths that old files do not state. The weights of a row's experts are not made to sum to 1 in any published model."""
    config["moe_intermediate_size"] = file.width("expert_feed_forward_length", "blk.0.ffn_down_exps.weight")
    shared = file.width("expert_shared_feed_forward_length", "blk.0.ffn_down_shexp.weight")
    config["shared_expert_intermediate_size"], config["norm_topk_prob"] = shared, False


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """The gate has one dimension."""
    found = names.place(spec, parameter)
    return replace(found, shape=found.shape[1:]) if parameter.name.endswith("shared_gate.weight") else found
