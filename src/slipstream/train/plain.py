"""PlainTarget: a target of the built-in model's shape in plain torch, for GPUs: windows by the hundreds, and texts by the thousands.

Owns its forward passes: over whole windows with what a head reads, and token by token with a cache of its own. No kernels of the engine,
so none has to be compiled first. Must not know the drafter, nor the loss.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.arch.detect import config_to_spec
from slipstream.arch.heads import usual_levels
from slipstream.files.safetensors import read_json
from slipstream.train.demo import load_teacher
from slipstream.train.lm import Attention, Llama, rotary, rotate
from slipstream.train.rest import Rest

MORE = ("rope_scaling", "rope_parameters", "attention_bias", "mlp_bias", "quantization_config")  # fields of what train/lm.py has not


def plain(source: Path | str) -> bool:
    """Whether train/lm.py computes this model: Llama as train/demo.py makes it."""
    folder = Path(source)
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        return False
    config = read_json(folder / "config.json")
    width = config.get("hidden_size", 0) // config.get("num_attention_heads", 1)
    return (
        config.get("architectures") == ["LlamaForCausalLM"]
        and config.get("tie_word_embeddings") is True
        and config.get("head_dim", width) == width
        and not any(config.get(field) for field in MORE)
    )


class PlainTarget:
    """See train.loop.Target.

    Args:
        source: a folder for which `plain` is true.
        levels: of its hidden states (Decoder.watch); None for the usual ones of `kind`.
        device: where it runs.
        kind: of the drafter.
    """

    def __init__(self, source: Path | str, levels: Sequence[int] | None, device: str, kind: str = "eagle"):
        folder = self._source = Path(source)
        self.spec = config_to_spec(read_json(folder / "config.json"))
        self.levels = tuple(levels) if levels is not None else usual_levels(kind, self.spec)
        self.device, self._model = device, load_teacher(folder, device)

    def embedded(self, tokens: Tensor) -> Tensor:
        return self._model.embed_tokens(tokens)

    def joined(self, states: Tensor, rows: Iterable[Tensor]) -> list[Tensor]:
        return self._rest(states, rows)

    @cached_property
    def _rest(self) -> Rest:
        return Rest(self._source, self.levels[-1], self.device)

    def logits(self, normed: Tensor) -> Tensor:
        with torch.autocast("cuda", enabled=False):  # a loss on rounded logits learns less
            return F.linear(normed.float(), self._model.embed_tokens.weight)

    @torch.no_grad()
    def read(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        model = self._model
        x, turn = model.embed_tokens(windows), turns(model, windows.shape[1])
        states = [x]
        for layer in model.layers:
            x = layer(x, *turn)
            states.append(x)
        normed = model.norm(x)
        states.append(normed)
        return torch.cat([states[level] for level in self.levels], -1).float(), self.logits(normed)

    @torch.no_grad()
    def written(self, beginnings: Tensor, length: int, temperature: float, seed: int) -> Tensor:
        """Texts that the model itself writes, all at once.

        Args:
            beginnings: tokens that each begins with. [texts, begin]
            length: tokens of each text, its beginning included.

        Returns:
            [texts, length]
        """
        model, draw = self._model, torch.Generator(self.device).manual_seed(seed)
        count, begin = beginnings.shape
        text = torch.zeros(count, length, dtype=torch.long, device=self.device)
        text[:, :begin] = beginnings
        cosines, sines = turns(model, length)
        caches = [cache(layer.self_attn, count, length, self.device) for layer in model.layers]
        with torch.autocast("cuda", torch.bfloat16, enabled=text.is_cuda):
            for at in range(length - 1):
                x, turn = model.embed_tokens(text[:, at : at + 1]), (cosines[at : at + 1], sines[at : at + 1])  # x [texts, 1, hidden]
                for layer, kept in zip(model.layers, caches, strict=True):
                    x = x + attended(layer.self_attn, layer.input_layernorm(x), turn, kept, at)
                    x = x + layer.mlp(layer.post_attention_layernorm(x))
                if at + 1 >= begin:
                    text[:, at + 1] = drawn(self.logits(model.norm(x[:, 0])), temperature, draw)
        return text


def turns(model: Llama, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions. [length, head_dim] each"""
    return rotary(model.layers[0].self_attn.head_dim, model.config["rope_theta"], length, model.norm.weight.device)


def cache(layer: Attention, texts: int, length: int, device: str) -> tuple[Tensor, Tensor]:
    """Room for keys and values. [texts, kv_heads, length, head_dim] each"""
    kind = torch.bfloat16 if device != "cpu" else torch.float32
    shape = (texts, layer.kv_heads, length, layer.head_dim)
    return torch.zeros(shape, dtype=kind, device=device), torch.zeros(shape, dtype=kind, device=device)


def attended(layer: Attention, x: Tensor, turn: tuple[Tensor, Tensor], kept: tuple[Tensor, Tensor], at: int) -> Tensor:
    """Attention of one token per text, whose keys and values are written at `at`. x [texts, 1, hidden] -> the same"""
    texts, (keys, values) = x.shape[0], kept
    q, k, v = (part(x).view(texts, -1, 1, layer.head_dim) for part in (layer.q_proj, layer.k_proj, layer.v_proj))
    keys[:, :, at], values[:, :, at] = rotate(k, *turn)[:, :, 0].to(keys.dtype), v[:, :, 0].to(keys.dtype)
    grouped = rotate(q, *turn).view(texts, layer.kv_heads, -1, layer.head_dim).to(keys.dtype)  # a group's heads as rows: all see the same
    y = F.scaled_dot_product_attention(grouped, keys[:, :, : at + 1], values[:, :, : at + 1])
    return layer.o_proj(y.reshape(texts, 1, -1).to(x.dtype))


def drawn(logits: Tensor, temperature: float, draw: torch.Generator) -> Tensor:
    """A token per text. [texts, vocab] -> [texts]"""
    if temperature == 0:
        return logits.argmax(-1)
    noise = torch.empty_like(logits).exponential_(generator=draw)
    return (logits / temperature - noise.log()).argmax(-1)
