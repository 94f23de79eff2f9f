"""Qwen 3 MoE: experts in every layer, whose weights sum to 1 in every published model."""

from typing import Any

from slipstream.weights.gguf.kinds.qwen2moe import FIELDS
from slipstream.weights.gguf.metadata import Metadata
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS, place

ARCHITECTURE = "Qwen3MoeForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """A width that old files do not state."""
    config["moe_intermediate_size"] = file.width("expert_feed_forward_length", "blk.0.ffn_down_exps.weight")
    config["norm_topk_prob"] = True
