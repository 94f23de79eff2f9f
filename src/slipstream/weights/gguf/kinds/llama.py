"""Llama, Mistral, Mixtral and what is built like them: all are called llama. Rope turns neighbours."""

from typing import Any

from slipstream.weights.gguf.metadata import FIELDS, Metadata
from slipstream.weights.gguf.names import NAMES, NOT_WEIGHTS
from slipstream.weights.gguf.names import neighbours as place

ARCHITECTURE = "LlamaForCausalLM"

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """Experts make it a Mixtral, a window a Mistral; biases show in the tensors."""
    if file.get("expert_count"):
        config["architectures"] = ["MixtralForCausalLM"]
        config["num_local_experts"], config["num_experts_per_tok"] = file.get("expert_count"), file.get("expert_used_count")
    elif config.get("sliding_window"):
        config["architectures"] = ["MistralForCausalLM"]
    else:
        file.get("expert_used_count")
        config["attention_bias"], config["mlp_bias"] = "blk.0.attn_q.bias" in file.shapes, "blk.0.ffn_gate.bias" in file.shapes
