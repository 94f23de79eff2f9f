"""DeepSeek V2, V2-Lite, V3, V3.1, R1 and what is built like them (Moonlight, Kimi K2): all are called deepseek2.

Newer files hold the matrix that makes keys and values in two parts, keys' transposed, head by head.
"""

from typing import Any

import torch
from torch import Tensor

from slipstream.arch.families import deepseek
from slipstream.arch.names import Place
from slipstream.arch.spec import ModelSpec, TensorSpec
from slipstream.weights.gguf import names
from slipstream.weights.gguf.metadata import FIELDS as COMMON
from slipstream.weights.gguf.metadata import WAY_OUT, Metadata
from slipstream.weights.gguf.names import NAMES as USUAL
from slipstream.weights.gguf.names import NOT_WEIGHTS, as_family

ARCHITECTURE = "DeepseekV2ForCausalLM"
_ELSEWHERE = ("attention.head_count_kv", "attention.key_length", "attention.sliding_window")
FIELDS = {
    **{key: field for key, field in COMMON.items() if key not in _ELSEWHERE},
    "attention.q_lora_rank": "q_lora_rank", "attention.kv_lora_rank": "kv_lora_rank", "rope.dimension_count": "qk_rope_head_dim",
    "leading_dense_block_count": "first_k_dense_replace", "expert_feed_forward_length": "moe_intermediate_size",
    "expert_count": "n_routed_experts", "expert_used_count": "num_experts_per_tok", "expert_shared_count": "n_shared_experts",
}  # fmt: skip
NAMES = {
    **USUAL,
    "layers.{}.mixer.q_a": "blk.{}.attn_q_a",
    "layers.{}.mixer.q_a_norm": "blk.{}.attn_q_a_norm",
    "layers.{}.mixer.kv_a": "blk.{}.attn_kv_a_mqa",
    "layers.{}.mixer.k_rope": "blk.{}.attn_kv_a_mqa",
    "layers.{}.mixer.kv_a_norm": "blk.{}.attn_kv_a_norm",
    "layers.{}.mixer.kv": "blk.{}.attn_kv_b",
}
SIGMOID = 2  # of expert_gating_func; 1, or no such key, is softmax
GROUPS = {256: (8, 4), 160: (8, 3)}  # experts of V3 and V2 -> groups and groups in use, which files before 2025-10 do not state

__all__ = ["ARCHITECTURE", "FIELDS", "MADE", "NAMES", "NOT_WEIGHTS", "complete", "place"]


def complete(file: Metadata, config: dict[str, Any]) -> None:
    """Scores by sigmoid are V3's. Widths of heads are those before the latent vector is put in their place."""
    key, value = (file.whole(f"attention.{part}_length_mla", file.get(f"attention.{part}_length")) for part in ("key", "value"))
    file.get("attention.head_count_kv")  # 1, or as many as heads: the same model
    turned = file.whole("rope.dimension_count")
    if key <= turned:
        raise file.error("rope.dimension_count", f"must be below the width of a key, {key}; fetch the file again")
    config |= {"qk_nope_head_dim": key - turned, "v_head_dim": value, "head_dim": None}
    third = file.get("expert_gating_func", 1) == SIGMOID
    config["architectures"] = [f"DeepseekV{3 if third else 2}ForCausalLM"]
    config["routed_scaling_factor"] = file.get("expert_weights_scale", 1.0)
    config["norm_topk_prob"] = file.get("expert_weights_norm", False)
    groups, kept = GROUPS.get(config.get("n_routed_experts"), (1, 1))
    config["n_group"], config["topk_group"] = file.get("expert_group_count", groups), file.get("expert_group_used_count", kept)
    if not third:
        config["topk_method"] = "greedy" if config["n_group"] == 1 else "group_limited_greedy"
    _yarn(file, config)


def _yarn(file: Metadata, config: dict[str, Any]) -> None:
    """The multiplier is a tenth of mscale_all_dim; mscale is not stated and the same in every published model."""
    multiplier = file.get("rope.scaling.yarn_log_multiplier")
    if multiplier is None:
        return
    if "rope_scaling" not in config or type(multiplier) is not float or not 0 < multiplier < 100:
        raise file.error("rope.scaling.yarn_log_multiplier", f"must be a number above 0, with rope.scaling.type=yarn; {WAY_OUT}")
    config["rope_scaling"] |= dict.fromkeys(("mscale", "mscale_all_dim"), float(f"{10 * multiplier:.6g}"))


def place(spec: ModelSpec, parameter: TensorSpec) -> Place:
    """In the order of the family's own checkpoints; q is the second of two matrices where there are two."""
    own = names.place(spec, parameter, NAMES)
    if parameter.name.endswith("mixer.q.weight") and spec.layers[0].mixer.q_rank:
        own = Place(own.name.replace("attn_q", "attn_q_b"), own.shape)
    return as_family(deepseek.place(spec, parameter), own) if ".mixer." in parameter.name else own


def _joined(keys: Tensor, values: Tensor) -> Tensor:
    """[heads, rank, plain], [heads, value, rank] -> [heads * (plain + value), rank]."""
    return torch.cat([keys.transpose(1, 2), values], 1).flatten(0, 1)


MADE = {"blk.{}.attn_kv_b.weight": (("blk.{}.attn_k_b.weight", "blk.{}.attn_v_b.weight"), _joined)}
