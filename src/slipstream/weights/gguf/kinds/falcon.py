"""Falcon 7B, 40B and 180B: q, k and v of all heads lie one after the other; of two norms the ffn's has the name of the only one."""

from dataclasses import replace
from typing import Any

from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.base.errors import CheckpointError
from slipstream.weights.gguf.kinds.gptneox import NAMES, NOT_WEIGHTS, fused
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import WAY_OUT, Metadata

ARCHITECTURE = "FalconForCausalLM"
FIELDS = {
    **{key: field for key, field in COMMON.items() if key not in ("attention.head_count_kv", "feed_forward_length")},
    "attention.layer_norm_epsilon": "layer_norm_epsilon", "feed_forward_length": "ffn_hidden_size",
}  # fmt: skip
_OWN_NORM = {"mixer": "attn_norm_2", "ffn": "attn_norm"}

__all__ = ["ARCHITECTURE", "FIELDS", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """Groups of heads mean the newer layout. Of Falcon 2 11B, which has them and one norm, files lack the rope base."""
    kv_heads = file.whole("attention.head_count_kv", 1)
    two_norms = "blk.0.attn_norm_2.weight" in file.shapes
    if kv_heads > 1 and not two_norms and file.get("rope.freq_base") is None:
        raise CheckpointError(f"falcon.rope.freq_base: is missing, and this model does not have the usual one; {WAY_OUT}")
    config["num_kv_heads"], config["new_decoder_architecture"] = kv_heads, kv_heads > 1 or two_norms
    config["multi_query"] = kv_heads == 1
    if config["new_decoder_architecture"]:
        config["num_ln_in_parallel_attn"] = 2 if two_norms else 1


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Two norms side by side have names of their own."""
    found, parts = fused(spec, parameter), parameter.name.split(".")
    if spec.layers[0].one_norm or parts[-2] != "norm" or parts[0] != "layers":
        return found
    return replace(found, name=f"blk.{parts[1]}.{_OWN_NORM[parts[2]]}.{parts[-1]}")
