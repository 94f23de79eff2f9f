"""A Llama for training: plain torch with autograd, parameters named as in Hugging Face checkpoints.

Owns nothing but the forward pass of training. Inference never imports it; the two meet in the checkpoint format only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions (half-split pairs, as in Hugging Face Llama)."""

    def __init__(self, hidden: int, heads: int, kv_heads: int, head_dim: int | None = None):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim or hidden // heads
        self.q_proj = nn.Linear(hidden, heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden, kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * self.head_dim, hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # x [batch, time, hidden]; cos, sin [time, head_dim]
        batch, time, _ = x.shape
        q = self.q_proj(x).view(batch, time, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, time, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, time, self.kv_heads, self.head_dim).transpose(1, 2)
        group = self.heads // self.kv_heads
        k, v = rotate(k, cos, sin).repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, time, -1))


def rotary(head_dim: int, theta: float, time: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions. [time, head_dim] each"""
    inverse = theta ** (-torch.arange(0, head_dim, 2, device=device).float() / head_dim)
    angles = torch.arange(time, device=device).float()[:, None] * inverse.repeat(2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # x [batch, heads, time, head_dim]
    left, right = x.chunk(2, -1)
    return x * cos.to(x.dtype) + torch.cat((-right, left), -1) * sin.to(x.dtype)


class MLP(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.gate_proj = nn.Linear(hidden, intermediate, bias=False)
        self.up_proj = nn.Linear(hidden, intermediate, bias=False)
        self.down_proj = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: dict):
        super().__init__()
        hidden, eps = config["hidden_size"], config["rms_norm_eps"]
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.self_attn = Attention(hidden, config["num_attention_heads"], config["num_key_value_heads"])
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps)
        self.mlp = MLP(hidden, config["intermediate_size"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    """Decoder with tied embeddings.

    Args:
        config: the fields of a Hugging Face LlamaConfig, as written to `config.json`.
    """

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                # The residual stream grows with depth: the matrices that write to it start smaller (GPT-2).
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * len(self.layers)) ** 0.5 if writes else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:  # tokens [batch, time] -> logits [batch, time, vocab]
        turn = rotary(self.layers[0].self_attn.head_dim, self.config["rope_theta"], tokens.shape[1], tokens.device)
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, *turn)
        return F.linear(self.norm(x), self.embed_tokens.weight)

    def checkpoint(self) -> dict[str, Tensor]:
        """The weights in bf16 under their Hugging Face names."""
        return {f"model.{name}": p.detach().to("cpu", torch.bfloat16).contiguous() for name, p in self.named_parameters()}
