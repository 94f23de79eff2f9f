"""The loop of trained drafters: windows of text, loss, rates, export. One loop for every kind; kinds differ in their body (train/heads.py).

Owns the recipe, and the order of a step. The target stays as it is: the drafter learns its whole distribution at every depth, partly on
text that the target wrote itself. Must not know where texts come from, the engine, or which of two targets it has (train/target.py,
train/plain.py).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from slipstream.arch.spec import ModelSpec
from slipstream.train.lm import Llama
from slipstream.train.muon import Muon

TABLE = "embed_tokens"  # of which a step moves few rows, so that what suits matrices does not suit it
FIRST = 24  # steps whose windows first values are fitted to


class Target(Protocol):
    """The model that a drafter is trained for, read only.

    Attributes:
        spec: what it is.
        levels: of the hidden states that `read` returns (Decoder.watch).
        device: where all tensors are.
    """

    spec: ModelSpec
    levels: tuple[int, ...]
    device: str

    def read(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [rows, length, levels * hidden] and logits [rows, length, vocab] of windows of text [rows, length], each from its
        beginning."""

    def embedded(self, tokens: Tensor) -> Tensor:
        """What layer 0 reads. [...] -> [..., hidden]"""

    def joined(self, states: Tensor, rows: Iterable[Tensor]) -> list[Tensor]:
        """Rows that join at the last of `levels`: what the output layer reads of them. Gradients flow through.

        Args:
            states: at that level, of whole windows. [windows, length, hidden]
            rows: of depth 0, 1, ...: row r stands at position r + 1 + depth, and sees the window up to position r, and the rows r of
                the depths before. [windows, length - 1 - depth, hidden] each, as what comes out

        Raises:
            InputError: the target's layers are not of the kind that this can train through.
        """

    def logits(self, normed: Tensor) -> Tensor:
        """The output layer, through which gradients flow. [..., hidden] -> [..., vocab] fp32"""


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of.

    Attributes:
        kind: a body in train/heads.py, one of arch.heads.FUSED, or "draft", a model of its own.
        tokens: how many tokens to train on in all.
        seconds: after which it ends all the same, with rates that have fallen to zero by then; None: never.
        rows, length: windows per step and tokens per window.
        depth: tokens that it learns to guess ahead.
        width: inner size of its ffn.
        levels: hidden states that it reads, see arch.heads; None for the usual of its kind.
        fade: weight of a depth against the one before.
        own: share of the windows that the target goes on with by itself after `begin` tokens, at `temperature`; 0: plain text.
        texts: how many such windows there are; used again and again.
        muon_lr, adam_lr: peak learning rates of the matrices (Muon, Jordan et al. 2024) and of the norms (AdamW).
        warmup, decay: shares of the run; constant between, linear to zero at the end.
    """

    kind: str = "eagle"
    tokens: int = 1_000_000
    seconds: float | None = None
    rows: int = 3
    length: int = 192
    depth: int = 4
    width: int = 704
    levels: tuple[int, ...] | None = None
    fade: float = 0.8
    own: float = 0.5
    texts: int = 1024
    begin: int = 32
    temperature: float = 0.9
    muon_lr: float = 0.01
    adam_lr: float = 0.002
    warmup: float = 0.03
    decay: float = 0.5
    seed: int = 1


def beginnings(stream: np.ndarray, recipe: Recipe, opening: Sequence[int]) -> np.ndarray:
    """Of the windows that the target goes on with by itself: `opening`, then text from anywhere in `stream`. [texts, begin]"""
    count = recipe.begin - len(opening)
    at = np.random.default_rng((recipe.seed, 0)).integers(0, len(stream) - count, recipe.texts)
    return np.concatenate([np.tile(np.array(opening, np.int64), (recipe.texts, 1)), stream[at[:, None] + np.arange(count)]], 1)


def windows(stream: np.ndarray, own: np.ndarray, step: int, recipe: Recipe, opening: Sequence[int] = ()) -> Tensor:
    """The windows of a step. [rows, length]

    Args:
        stream: text of others. [tokens]
        own: windows in the target's own words. [texts, length]
        opening: tokens that a tokenizer puts before every text; before those from `stream` too.
    """
    rng = np.random.default_rng((recipe.seed, 1, step))
    taken, rows = recipe.length - len(opening), []
    for _ in range(recipe.rows):
        if len(own) and rng.random() < recipe.own:
            rows.append(own[rng.integers(len(own))])
        else:
            start = rng.integers(0, len(stream) - taken)
            rows.append(np.concatenate([np.array(opening, stream.dtype), stream[start : start + taken]]))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def train(
    body: nn.Module, target: Target, stream: np.ndarray, own: np.ndarray, recipe: Recipe, say: Callable[[str], None],
    opening: Sequence[int] = (), fits: bool = True,
) -> list[float]:  # fmt: skip
    """The loop; returns how often the likeliest token was the target's, by depth, in the last steps. See `windows`.

    Args:
        fits: whether a body that can begins with the best first values, and not with those that it has.
    """
    matrices = [p for name, p in body.named_parameters() if p.ndim == 2 and not name.startswith(TABLE)]
    rest = [p for name, p in body.named_parameters() if p.ndim != 2 or name.startswith(TABLE)]
    peaks = (recipe.muon_lr, recipe.adam_lr)
    optimizers = [
        Muon(matrices, lr=peaks[0]),
        torch.optim.AdamW(rest, lr=peaks[1], betas=(0.9, 0.95), weight_decay=0.0),
    ]
    if fits and getattr(body, "joins", False):
        body.fit(_read(target, windows(stream, own, step, recipe, opening)) for step in range(FIRST))
    steps, began = max(1, recipe.tokens // (recipe.rows * recipe.length)), time.monotonic()
    mean, step, part = 0.0, 0, 0.0  # mean: [depth]
    while part < 1:
        batch = windows(stream, own, step, recipe, opening).to(target.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=batch.is_cuda):
            loss, agreed = depths(body, target, batch, recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(part, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        keep = min(0.98, step / (step + 1))
        mean, step, took = keep * mean + (1 - keep) * agreed, step + 1, time.monotonic() - began
        part = max(step / steps, took / recipe.seconds if recipe.seconds else 0.0)
        if step % 25 == 0 or part >= 1:
            shares = " ".join(f"{share:.3f}" for share in mean.tolist())
            say(f"step {step}, {min(part, 1):.0%}  loss {loss.item():.3f}  agrees {shares}  {took:.0f} s")
    return [round(share, 4) for share in mean.tolist()]


def _read(target: Target, batch: Tensor) -> tuple[Tensor, Tensor]:
    """What a body reads of windows."""
    batch = batch.to(target.device)
    return target.embedded(batch), target.read(batch)[0]


def depths(body: nn.Module, target: Target, tokens: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """(loss, share of equal likeliest tokens at each depth [depth]) of a step's windows [rows, length].

    The loss of a depth is the cross-entropy with the target's distribution at the position that is guessed.
    """
    states, taught = target.read(tokens)
    wanted, best = taught.softmax(-1), taught.argmax(-1)  # [rows, length, vocab], [rows, length]
    loss, weights, agreed = 0.0, 0.0, []
    for depth, logits in enumerate(_guessed(body, target, tokens, states)):
        weight, first = recipe.fade**depth, taught.shape[1] - logits.shape[1]
        cost = F.cross_entropy(logits.flatten(0, 1), wanted[:, first:].flatten(0, 1))
        loss, weights = loss + weight * cost, weights + weight
        agreed.append((logits.argmax(-1) == best[:, first:]).float().mean())
    return loss / weights, torch.stack(agreed)


def _guessed(body: nn.Module, target: Target, tokens: Tensor, states: Tensor) -> Iterator[Tensor]:
    """Logits of the last positions of windows, one depth after the other. [rows, positions, vocab]"""
    if isinstance(body, Llama):  # a model of its own: the next token at every position
        yield body(tokens).float()
        return
    guesses = body.unroll(target.embedded(tokens), states)
    for normed in target.joined(states, guesses) if body.joins else guesses:
        yield target.logits(normed)


def schedule(part: float, recipe: Recipe) -> float:
    """Share of the peak learning rate after a `part` of the run."""
    return min(1.0, (part + 1e-3) / recipe.warmup, max(0.0, 1 - part) / recipe.decay)


def export(body: nn.Module, config: dict[str, Any], out: Path) -> None:
    """Weights in bf16, and what they mean."""
    if isinstance(body, Llama):
        tensors = body.checkpoint()
    else:
        tensors = {name: parameter.detach().to("cpu", torch.bfloat16).contiguous() for name, parameter in body.named_parameters()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


