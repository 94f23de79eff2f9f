"""Writes GGUF files with the `gguf` package, as llama.cpp's converter would. Needs that package; it is independent of ours."""

import numpy as np
import pytest
import torch

gguf = pytest.importorskip("gguf", reason="the package gguf writes the test files")

K_TYPES = ("Q4_K", "Q5_K", "Q6_K")
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    stem, ending = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{ending}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{ending}"


def packed(values: torch.Tensor, kind: str, seed: int = 0) -> np.ndarray:
    """Bytes of a matrix: quantised by the gguf package, or, for the types it cannot make, random blocks with small scales."""
    if kind not in K_TYPES:
        return gguf.quants.quantize(values.numpy(), gguf.GGMLQuantizationType[kind])
    width, scales = {"Q4_K": (144, (0, 2)), "Q5_K": (176, (0, 2)), "Q6_K": (210, (208,))}[kind]
    n, k = values.shape
    blocks = np.random.default_rng(seed).integers(0, 256, (n * k // 256, width), dtype=np.uint8)
    for at in scales:
        blocks[:, at : at + 2] = np.full(len(blocks), 2e-4 if kind != "Q6_K" else 3e-5, np.float16).view(np.uint8).reshape(-1, 2)
    return blocks.reshape(n, -1)


def unpacked(data: np.ndarray, kind: str) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(data, gguf.GGMLQuantizationType[kind]).copy())


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """What the converter does to the rows of q and k."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(rows.shape)


def write(path, config, weights, kinds, *, architecture="llama", metadata=lambda writer: None, extra=None):
    """A file of `weights` (names of transformers, fp32).

    Args:
        kinds: function of a name -> ggml type of the matrix.
        metadata: adds more to the writer.
        extra: further tensors under their names in the file.

    Returns:
        The weights that the file means, in fp32.
    """
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_key_length(config["hidden_size"] // config["num_attention_heads"])
    metadata(writer)
    meant = {}
    for seed, (name, values) in enumerate(weights.items()):
        kind = kinds(name) if values.ndim == 2 else "F32"
        data = packed(values, kind, seed)
        meant[name] = unpacked(data, kind).view(values.shape)
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        data = interleaved(data, config[heads]) if heads and architecture == "llama" else data
        plain = {"F32": np.float32, "F16": np.float16}.get(kind)
        writer.add_tensor(gguf_name(name), data if plain is None else data.astype(plain), raw_dtype=gguf.GGMLQuantizationType[kind])
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return meant
