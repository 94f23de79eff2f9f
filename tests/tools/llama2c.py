"""llama2.c legacy checkpoints (Karpathy, github.com/karpathy/llama2.c) as a Hugging Face folder; a tool of the tests.

    python tests/tools/llama2c.py stories260K_legacy_f32.bin tok512.bin OUT

Model file: 7 int32 (dim, hidden, layers, heads, kv_heads, vocab, seq; vocab negative: the head is not shared), then
float32 tensors, rope tables last. It rotates interleaved pairs (2i, 2i + 1); we rotate half-split pairs (i, i + d/2), so
the rows of q and k are permuted. Tokenizer file: int32, then per token float32 score, int32 length, bytes.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors

SPECIAL = ("<unk>", "<s>", "</s>")


def convert(model: Path, tokens: Path, out: Path) -> None:
    """Writes config.json, model.safetensors and tokenizer.json into the new folder `out`."""
    out.mkdir(parents=True)
    numbers = np.fromfile(model, np.int32, 7)
    config = read_config([int(number) for number in numbers])
    (out / "config.json").write_text(json.dumps(config, indent=1))
    save_file(read_tensors(np.fromfile(model, np.float32, offset=28), config), out / "model.safetensors", {"format": "pt"})
    read_tokenizer(tokens.read_bytes(), config["vocab_size"]).save(str(out / "tokenizer.json"))


def read_config(numbers: list[int]) -> dict:
    dim, hidden, layers, heads, kv_heads, vocab, length = numbers
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": abs(vocab),
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": vocab > 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }


def read_tensors(data: np.ndarray, config: dict) -> dict[str, np.ndarray]:
    """The flat float32 data as named tensors."""
    dim, width, layers, vocab = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    kv_dim = dim // heads * kv_heads
    at = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal at
        at += int(np.prod(shape))
        return data[at - int(np.prod(shape)) : at].reshape(shape)

    out = {"model.embed_tokens.weight": take(vocab, dim)}
    stacks = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": half_split(take(layers, dim, dim), heads),
        "self_attn.k_proj": half_split(take(layers, kv_dim, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv_dim, dim),
        "self_attn.o_proj": take(layers, dim, dim),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, width, dim),
        "mlp.down_proj": take(layers, dim, width),
        "mlp.up_proj": take(layers, width, dim),
    }
    for name, stack in stacks.items():
        out |= {f"model.layers.{layer}.{name}.weight": np.ascontiguousarray(stack[layer]) for layer in range(layers)}
    out["model.norm.weight"] = take(dim)
    take(2, config["max_position_embeddings"], dim // heads // 2)  # rope tables
    if not config["tie_word_embeddings"]:
        out["lm_head.weight"] = take(vocab, dim)
    if at != len(data):
        raise ValueError(f"{len(data) - at} numbers are left over: not a llama2.c legacy file of this shape")
    return out


def half_split(stack: np.ndarray, heads: int) -> np.ndarray:
    """Rows of [layers, heads * d, k] from interleaved to half-split rotation pairs."""
    layers, rows, k = stack.shape
    return stack.reshape(layers, heads, rows // heads // 2, 2, k).swapaxes(2, 3).reshape(layers, rows, k)


def read_tokenizer(data: bytes, vocab: int) -> Tokenizer:
    """A SentencePiece BPE with byte fallback; merges follow from the scores, as SentencePiece applies the best one first."""
    at, pieces = 4, []
    for _ in range(vocab):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append((data[at + 8 : at + 8 + length].decode().replace(" ", "▁"), score))
        at += 8 + length
    pieces[:3] = [(name, 0.0) for name in SPECIAL]
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    merges = []
    for piece, score in pieces[259:]:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((-score, ids[left], ids[right], (left, right)))
    merges.sort()
    tokenizer = Tokenizer(models.BPE(ids, [pair for *_, pair in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


if __name__ == "__main__":
    convert(*(Path(argument) for argument in sys.argv[1:4]))
