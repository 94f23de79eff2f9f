"""Tiny heads in the layouts in which others publish theirs, and what they compute, written down plainly with torch. For tests."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

HIDDEN, VOCAB, HEADS, KV_HEADS, WIDTH, THETA, EPS, SOME = 64, 512, 4, 2, 96, 10000.0, 1e-6, 100  # of dummy:tiny but for WIDTH and SOME
SIZE = HIDDEN // HEADS
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "vocab_size": VOCAB,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": EPS,
    "rope_theta": THETA,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}


def drawn(seed: int, **shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Random tensors by name, two underscores for a dot; norms lie around 1."""
    made = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        tensor = torch.randn(shape, generator=made)
        out[name.replace("__", ".")] = 1 + 0.1 * tensor if name.endswith("norm__weight") else tensor * shape[-1] ** -0.5
    return out


def layer(prefix: str, inputs: int) -> dict[str, tuple[int, ...]]:
    sizes = {"q": (HIDDEN, inputs), "k": (KV_HEADS * SIZE, inputs), "v": (KV_HEADS * SIZE, inputs), "o": (HIDDEN, HIDDEN)}
    out = {f"{prefix}__self_attn__{part}_proj__weight": shape for part, shape in sizes.items()}
    out |= {f"{prefix}__mlp__{part}_proj__weight": (WIDTH, HIDDEN) for part in ("gate", "up")}
    return out | {f"{prefix}__mlp__down_proj__weight": (HIDDEN, WIDTH), f"{prefix}__post_attention_layernorm__weight": (HIDDEN,)}


def eagle() -> tuple[dict, dict[str, Tensor]]:
    """As yuhuili/EAGLE-* are."""
    return {**LLAMA, "bias": True}, drawn(1, fc__weight=(HIDDEN, 2 * HIDDEN), fc__bias=(HIDDEN,), **layer("layers__0", HIDDEN))


def eagle3(levels: int, prefix: str = "midlayer") -> tuple[dict, dict[str, Tensor]]:
    """As yuhuili/EAGLE3-* are; with `layers__0`, as vllm-project/speculators writes them."""
    norms = {f"{prefix}__{name}__weight": (HIDDEN,) for name in ("input_layernorm", "hidden_norm")}
    own = {"fc__weight": (HIDDEN, levels * HIDDEN), "norm__weight": (HIDDEN,), "lm_head__weight": (SOME, HIDDEN)}
    tensors = drawn(2, **own, **norms, **layer(prefix, 2 * HIDDEN))
    ids = torch.randperm(VOCAB, generator=torch.Generator().manual_seed(3))[:SOME].sort().values
    tensors["d2t"], tensors["t2d"] = ids - torch.arange(SOME), torch.zeros(VOCAB, dtype=torch.bool).index_fill_(0, ids, True)
    config = {**LLAMA, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": SOME}
    if prefix == "midlayer":
        return config, tensors
    verifier = {"name_or_path": "somebody/a-llama", "architectures": ["LlamaForCausalLM"]}
    speculators = {"algorithm": "eagle3", "verifier": verifier}
    return {
        "speculators_model_type": "eagle3", "speculators_config": speculators, "transformer_layer_config": LLAMA, "draft_vocab_size": SOME,
        "norm_before_residual": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2], "architectures": ["Eagle3Speculator"],
    }, tensors  # fmt: skip


def medusa(depth: int, converted: bool = False) -> tuple[dict, dict[str, Tensor]]:
    """As FasterDecoding/medusa-* are, whose config.json counts two heads whatever there is; or as vLLM converts them."""
    shapes = {}
    for at in range(depth):
        block, head = (f"blocks__{at}__layers__0", f"lm_heads__{at}") if converted else (f"{at}__0__linear", f"{at}__1")
        shapes |= {f"{block}__weight": (HIDDEN, HIDDEN), f"{block}__bias": (HIDDEN,), f"{head}__weight": (VOCAB, HIDDEN)}
    return {"medusa_num_heads": 2, "medusa_num_layers": 1, "base_model_name_or_path": "somebody/tiny"}, drawn(4, **shapes)


def redrafter() -> tuple[dict, dict[str, Tensor]]:
    """As apple/ml-recurrent-drafter writes them."""
    shapes = {"rnn_w__weight": (HIDDEN, HIDDEN), "rnn_u__weight": (HIDDEN, HIDDEN), "rnn_u__bias": (HIDDEN,)}
    for at in range(2):
        shapes |= {f"lm_head__{at}__linear__weight": (2 * HIDDEN, 2 * HIDDEN), f"lm_head__{at}__linear__bias": (2 * HIDDEN,)}
    config = {"model_type": "recurrent_drafting_drafter", "exit_dim": 2 * HIDDEN, "num_draft_layers": 2, "rnn": True}
    return config, drawn(9, **shapes, lm_head__2__weight=(VOCAB, 2 * HIDDEN))


def logits_redrafter(tensors: dict[str, Tensor], e: Tensor, h: Tensor) -> Tensor:  # e [tokens, hidden], h [hidden] -> [tokens, vocab]
    own, out = torch.zeros(HIDDEN), []
    for token in e:
        own = F.silu(tensors["rnn_w.weight"] @ token + F.linear(own, tensors["rnn_u.weight"], tensors["rnn_u.bias"]))
        x = torch.cat([h, own])
        for at in range(2):
            x = x + F.silu(F.linear(x, tensors[f"lm_head.{at}.linear.weight"], tensors[f"lm_head.{at}.linear.bias"]))
        out.append(tensors["lm_head.2.weight"] @ x)
    return torch.stack(out)


def mtp() -> dict[str, Tensor]:
    """What Qwen's checkpoints add to a model's own tensors, with Llama's layer."""
    norms = {name: (HIDDEN,) for name in ("pre_fc_norm_embedding__weight", "pre_fc_norm_hidden__weight", "norm__weight")}
    tensors = drawn(6, fc__weight=(HIDDEN, 2 * HIDDEN), **norms, **layer("layers__0", HIDDEN), layers__0__input_layernorm__weight=(HIDDEN,))
    return {f"mtp.{name}": 1 + 0.1 * tensor if len(tensor.shape) == 1 else tensor for name, tensor in tensors.items()}


def save(folder: Path, config: dict, tensors: dict[str, Tensor], file: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        torch.save(tensors, folder / file)
    return folder


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + EPS).rsqrt() * weight


def attention(tensors: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:  # x [rows, inputs], all seen from before -> [rows, hidden]
    rows = len(x)
    q, k, v = (F.linear(x, tensors[f"{prefix}.self_attn.{part}_proj.weight"]).view(rows, -1, SIZE).transpose(0, 1) for part in "qkv")
    angles = torch.arange(rows)[:, None] * THETA ** (-torch.arange(SIZE // 2) / (SIZE // 2))
    cos, sin = angles.cos(), angles.sin()
    q, k = (torch.cat([a * cos - b * sin, b * cos + a * sin], -1) for a, b in (part.chunk(2, -1) for part in (q, k)))
    k, v = (part.repeat_interleave(HEADS // KV_HEADS, 0) for part in (k, v))
    y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
    return F.linear(y.transpose(0, 1).reshape(rows, -1), tensors[f"{prefix}.self_attn.o_proj.weight"])


def fed(tensors: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    normed = rms(x, tensors[f"{prefix}.post_attention_layernorm.weight"])
    gate, up, down = (tensors[f"{prefix}.mlp.{part}_proj.weight"] for part in ("gate", "up", "down"))
    return x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down)


def run_eagle(tensors: dict[str, Tensor], e: Tensor, s: Tensor) -> Tensor:  # both [rows, hidden] -> states [rows, hidden]
    x = F.linear(torch.cat([e, s], -1), tensors["fc.weight"], tensors["fc.bias"])
    return fed(tensors, "layers.0", x + attention(tensors, "layers.0", x))


def run_mtp(tensors: dict[str, Tensor], e: Tensor, s: Tensor) -> Tensor:
    e, s = rms(e, tensors["mtp.pre_fc_norm_embedding.weight"]), rms(s, tensors["mtp.pre_fc_norm_hidden.weight"])
    x = F.linear(torch.cat([e, s], -1), tensors["mtp.fc.weight"])
    x = x + attention(tensors, "mtp.layers.0", rms(x, tensors["mtp.layers.0.input_layernorm.weight"]))
    return rms(fed(tensors, "mtp.layers.0", x), tensors["mtp.norm.weight"])


def run_eagle3(tensors: dict[str, Tensor], prefix: str, e: Tensor, s: Tensor, normed_stream: bool) -> Tensor:
    normed = rms(s, tensors[f"{prefix}.hidden_norm.weight"])
    z = torch.cat([rms(e, tensors[f"{prefix}.input_layernorm.weight"]), normed], -1)
    x = (normed if normed_stream else s) + attention(tensors, prefix, z)
    return fed(tensors, prefix, x)


def logits_eagle3(tensors: dict[str, Tensor], normed: Tensor) -> Tensor:  # [rows, hidden] -> [rows, vocab], -inf where it knows no token
    some = F.linear(normed, tensors["lm_head.weight"])
    return torch.full((len(normed), VOCAB), float("-inf")).index_copy_(1, torch.arange(SOME) + tensors["d2t"], some)


def logits_medusa(tensors: dict[str, Tensor], s: Tensor, depth: int, converted: bool) -> Tensor:
    block, head = (f"blocks.{depth}.layers.0", f"lm_heads.{depth}") if converted else (f"{depth}.0.linear", f"{depth}.1")
    x = s + F.silu(F.linear(s, tensors[f"{block}.weight"], tensors[f"{block}.bias"]))
    return F.linear(x, tensors[f"{head}.weight"])
