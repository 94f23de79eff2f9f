"""From a folder that transformers wrote to a GGUF file, by the rules of llama.cpp's converter. Knows nothing of the code under test.

The rules are facts of ggml-org/llama.cpp, conversion/*.py; tensor names come from the tables of the gguf package.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

gguf = pytest.importorskip("gguf", reason="the package gguf writes the test files")

ARCHITECTURES = {
    "mistral": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gemma3_text": "gemma3", "phi": "phi2",
    "gpt_neox": "gptneox", "gpt_bigcode": "starcoder", "deepseek_v2": "deepseek2", "deepseek_v3": "deepseek2", "gpt_oss": "gpt-oss",
}  # fmt: skip
TURNS_NEIGHBOURS = ("llama", "mistral", "mixtral", "granite", "smollm3")
EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)\.weight")


def convert(folder: Path, path: Path, *, kinds=lambda name: "F32", extra=lambda writer: None, whole_kv_b=None) -> Path:
    """Writes `path`.

    Args:
        kinds: function of a name in the file -> ggml type, for what is stored as a matrix or a stack of them.
        extra: adds more to the writer.
        whole_kv_b: DeepSeek's matrix of keys and values: None in two parts, "too" whole beside them, "only" whole.
    """
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    architecture = ARCHITECTURES.get(kind, kind)
    writer = gguf.GGUFWriter(path, architecture)
    metadata(writer, config, kind)
    extra(writer)
    layers = config.get("num_hidden_layers") or config["n_layer"]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == architecture)), layers)
    stored = load_file(folder / "model.safetensors")
    for name, tensor in changed(stacked(stored), config, kind, whole_kv_b):
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target, f"{name} has no name in GGUF"
        add(writer, target, tensor, kinds(target))
    for name, tensor in rope_tensors(config, kind):
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer, name: str, tensor: torch.Tensor, kind: str) -> None:
    values = tensor.float().contiguous().squeeze().numpy()
    if values.ndim < 2 or kind == "F32" or not name.endswith(".weight"):
        writer.add_tensor(name, np.ascontiguousarray(values))
        return
    type_ = gguf.GGMLQuantizationType[kind]
    writer.add_tensor(name, gguf.quants.quantize(values, type_), raw_dtype=type_)


def metadata(writer, config, kind) -> None:
    common(writer, config, kind)
    own = {"deepseek_v2": deepseek, "deepseek_v3": deepseek, "phi3": phi3, "falcon": falcon}.get(kind)
    if own:
        own(writer, config)
    heads, hidden = config.get("num_attention_heads"), config.get("hidden_size")
    if kind in ("llama", "mistral", "mixtral", "granite", "smollm3"):
        writer.add_vocab_size(config["vocab_size"])
        writer.add_rope_dimension_count(config.get("head_dim") or hidden // heads)
    if kind == "granite":
        writer.add_attention_scale(config["attention_multiplier"])
        writer.add_embedding_scale(config["embedding_multiplier"])
        writer.add_residual_scale(config["residual_multiplier"])
        writer.add_logit_scale(config["logits_scaling"])
    if kind in ("gemma2", "gemma3_text", "gpt_oss"):
        writer.add_sliding_window(config["sliding_window"])
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(config["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(config["final_logit_softcapping"])
    if kind in ("qwen2_moe", "qwen3_moe"):
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if kind == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    if kind == "gpt_oss":
        writer.add_expert_feed_forward_length(config["intermediate_size"])
    if kind in ("phi", "gpt_neox"):
        writer.add_rope_dimension_count(int(rope_of(config)["partial_rotary_factor"] * (hidden // heads)))
    if kind == "gpt_neox":
        writer.add_parallel_residual(config["use_parallel_residual"])
    if kind == "gpt_bigcode":
        writer.add_head_count_kv(1)


def common(writer, config, kind) -> None:
    """What the converter's base class writes; some models write a part of it."""
    get, rope = config.get, rope_of(config)
    hidden = get("hidden_size") or get("n_embd")
    writer.add_context_length(2048 if kind == "falcon" else get("max_position_embeddings") or get("n_positions"))
    writer.add_embedding_length(hidden)
    writer.add_block_count(get("num_hidden_layers") or get("n_layer"))
    plain = kind in ("gpt2", "gpt_bigcode", "falcon", "phi")
    writer.add_feed_forward_length(4 * hidden if plain else config["intermediate_size"])
    writer.add_head_count(get("num_attention_heads") or get("n_head"))
    if kind not in ("gpt2", "gpt_bigcode", "falcon", "gpt_neox"):
        writer.add_head_count_kv(1 if kind.startswith("deepseek") else get("num_key_value_heads"))
    for field, write in (
        ("rms_norm_eps", writer.add_layer_norm_rms_eps), ("layer_norm_eps", writer.add_layer_norm_eps),
        ("layer_norm_epsilon", writer.add_layer_norm_eps), ("norm_epsilon", writer.add_layer_norm_eps),
        ("num_local_experts", writer.add_expert_count), ("num_experts", writer.add_expert_count),
        ("num_experts_per_tok", writer.add_expert_used_count),
    ):  # fmt: skip
        if get(field) is not None and not (field == "num_local_experts" and get("num_experts")):
            write(config[field])
    if get("head_dim") and kind not in ("granite", "phi3") and not kind.startswith("deepseek"):
        writer.add_key_length(get("head_dim"))
        writer.add_value_length(get("head_dim"))
    if kind not in ("gemma", "gemma2", "gpt2", "gpt_bigcode", "falcon", "phi", "gpt_neox"):
        writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        for field, write in (("beta_fast", writer.add_rope_scaling_yarn_beta_fast), ("beta_slow", writer.add_rope_scaling_yarn_beta_slow)):
            if rope.get(field) is not None:
                write(rope[field])


def rope_of(config) -> dict:
    rope = config.get("rope_parameters") or {}
    return rope.get("full_attention", rope)


def deepseek(writer, config) -> None:
    key, value, rank = config["qk_nope_head_dim"] + config["qk_rope_head_dim"], config["v_head_dim"], config["kv_lora_rank"]
    writer.add_leading_dense_block_count(config["first_k_dense_replace"])
    writer.add_vocab_size(config["vocab_size"])
    if config["q_lora_rank"]:
        writer.add_q_lora_rank(config["q_lora_rank"])
    writer.add_kv_lora_rank(rank)
    writer.add_key_length(rank + config["qk_rope_head_dim"])
    writer.add_value_length(rank)
    writer.add_key_length_mla(key)
    writer.add_value_length_mla(value)
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_count(config["n_routed_experts"])
    writer.add_expert_shared_count(config["n_shared_experts"])
    writer.add_expert_weights_scale(config["routed_scaling_factor"])
    if config["norm_topk_prob"]:
        writer.add_expert_weights_norm(True)
    if config["n_group"]:
        writer.add_expert_group_count(config["n_group"])
        writer.add_expert_group_used_count(config["topk_group"])
    sigmoid = config["model_type"] == "deepseek_v3"  # published files say so in scoring_func
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID if sigmoid else gguf.ExpertGatingFuncType.SOFTMAX)
    writer.add_rope_dimension_count(config["qk_rope_head_dim"])
    if rope_of(config).get("mscale_all_dim") is not None:
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope_of(config)["mscale_all_dim"])


def phi3(writer, config) -> None:
    rope = rope_of(config)
    original = rope.get("original_max_position_embeddings") or config["original_max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    share = rope.get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(share * config["hidden_size"]) // config["num_attention_heads"])
    writer.add_sliding_window(config["sliding_window"] or 0)
    if rope.get("long_factor"):
        scale = config["max_position_embeddings"] / original
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0)


def falcon(writer, config) -> None:
    writer.add_tensor_data_layout("jploski")
    writer.add_head_count_kv(config["num_kv_heads"] if config["new_decoder_architecture"] else 1)


def rope_tensors(config, kind) -> Iterator[tuple[str, torch.Tensor]]:
    rope = rope_of(config)
    if kind == "phi3" and rope.get("long_factor"):
        yield "rope_factors_long.weight", torch.tensor(rope["long_factor"])
        yield "rope_factors_short.weight", torch.tensor(rope["short_factor"])


def stacked(stored: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Experts as one tensor."""
    stacks: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in stored.items():
        found = EXPERT.fullmatch(name)
        if found:
            stacks.setdefault(f"{found[1]}.{found[3]}.weight", {})[int(found[2])] = tensor
        else:
            yield name, tensor
    for name, parts in stacks.items():
        name = re.sub(r"model\.(layers\.\d+)\.block_sparse_moe\.experts\.", r"\1.feed_forward.experts.", name)
        yield name, torch.stack([parts[number] for number in range(len(parts))])


def changed(tensors, config, kind, whole_kv_b) -> Iterator[tuple[str, torch.Tensor]]:
    """What the converter does to the numbers."""
    heads = config.get("num_attention_heads")
    for name, tensor in tensors:
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            tensor = tensor + 1
        if kind in TURNS_NEIGHBOURS and (found := re.search(r"\.([qk])_proj\.(weight|bias)$", name)):
            count = heads if found[1] == "q" else config["num_key_value_heads"]
            tensor = tensor.reshape(count, 2, tensor.shape[0] // count // 2, -1).swapaxes(1, 2).reshape(tensor.shape)
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            tensor = tensor.T
        if kind in ("falcon", "gpt_neox") and "query_key_value" in name:
            groups = (config["num_kv_heads"] if config.get("new_decoder_architecture") else 1) if kind == "falcon" else heads
            tensor = by_kind(tensor, heads, groups)
        if kind.startswith("deepseek") and name.endswith("kv_b_proj.weight"):
            yield from kv_b(name, tensor, config, whole_kv_b)
        elif kind == "gpt_oss" and "mlp.experts" in name:
            yield from gpt_oss_experts(name, tensor)
        else:
            yield name.replace("self_attn.sinks", "self_attn.sinks.weight").replace("correction_bias", "correction.bias"), tensor


def by_kind(fused: torch.Tensor, heads: int, groups: int) -> torch.Tensor:
    """Rows of groups (queries, key, value) -> all queries, all keys, all values."""
    width = fused.shape[0] // (heads + 2 * groups)
    parts = fused.reshape(groups, heads // groups + 2, width, -1)
    return torch.cat([part.reshape(-1, parts.shape[-1]) for part in (parts[:, :-2], parts[:, -2], parts[:, -1])]).reshape(fused.shape)


def kv_b(name, tensor, config, whole) -> Iterator[tuple[str, torch.Tensor]]:
    if whole:
        yield name, tensor
    if whole != "only":
        plain, value = config["qk_nope_head_dim"], config["v_head_dim"]
        keys, values = tensor.view(config["num_attention_heads"], plain + value, -1).split([plain, value], dim=1)
        yield name.replace("kv_b", "k_b"), keys.transpose(1, 2)
        yield name.replace("kv_b", "v_b"), values


def gpt_oss_experts(name, tensor) -> Iterator[tuple[str, torch.Tensor]]:
    bias = name.endswith("_bias")
    stem, ending = name.removesuffix("_bias"), "bias" if bias else "weight"
    tensor = tensor if bias else tensor.transpose(-1, -2)
    if "down" in name:
        yield f"{stem}.{ending}", tensor
        return
    for part, start in (("gate", 0), ("up", 1)):
        yield f"{stem.replace('gate_up', part)}.{ending}", tensor[:, start::2]
