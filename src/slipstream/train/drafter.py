"""The recipe of trained drafters: texts, loop, loss, export, report. One loop for every kind; kinds differ in their body (train/heads.py).

Owns hyper-parameters and the loop. `slipstream train drafter --kind eagle --model PATH --data FILES --out DIR` makes a folder that
`--speculate eagle:path=DIR` loads. The target stays as it is: the drafter learns its whole distribution at every depth, half of the
time on text that the target wrote itself. What counts is measured with the engine on text that nobody was trained on: tokens per step.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from slipstream.arch.heads import head_config, head_of, stored_name
from slipstream.base.errors import InputError
from slipstream.engine.build import tokenizer_of
from slipstream.engine.llm import LLM
from slipstream.step import SamplingParams
from slipstream.train.books import read_book
from slipstream.train.heads import BODIES
from slipstream.train.muon import Muon
from slipstream.train.target import Target, continued
from slipstream.weights.heads import HeadWeights

TEMPERATURES = (0.0, 0.8)
PROMPT, NEW, PROMPTS = 128, 96, 12  # of the measurement: tokens of a prompt, tokens that follow, prompts


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of.

    Attributes:
        kind: a body in train/heads.py.
        tokens: how many tokens to train on in all.
        rows, length: windows per step and tokens per window.
        depth: tokens that it learns to guess ahead.
        width: inner size of its ffn.
        levels: hidden states that it reads, see arch.heads; None for what the target's final norm reads.
        fade: weight of a depth against the one before.
        own: share of the windows that the target goes on with by itself after `begin` tokens, at `temperature`; 0: plain text.
        texts: how many such windows there are; used again and again.
        muon_lr, adam_lr: peak learning rates of the matrices (Muon, Jordan et al. 2024) and of the norms (AdamW).
        warmup, decay: shares of the run; constant between, linear to zero at the end.
    """

    kind: str = "eagle"
    tokens: int = 1_000_000
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


def run(
    model: Path | str, data: Sequence[Path], out: Path, recipe: Recipe, *, start: Path | None = None, say: Callable[[str], None] = print
) -> dict:
    """Trains a drafter for `model` on the texts in `data` and writes the folder `out`; returns its report.

    Args:
        start: a head of the same kind and shape to begin with, for instance to fit a general one to texts of one sort.

    Raises:
        InputError: the model has no tokenizer, or the texts are too short.
        CheckpointError: `start` holds another kind of head, or one of another shape.
    """
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of(model)
    if tokenizer is None:
        raise InputError(f"--model {model}: has no tokenizer, so it cannot read --data; take a model with one")
    books = [read_book(path) for path in sorted(data)]
    stream = np.concatenate([np.array(tokenizer.encode(book.train), np.int32) for book in books])
    held = [tokenizer.encode(text) for text in ([book.held_out for book in books if book.held_out] or [book.train for book in books])]
    if len(stream) <= recipe.length:
        raise InputError(f"--data: {len(stream)} tokens are too few for windows of {recipe.length}; give longer texts")
    target = Target(model, recipe.levels, recipe.rows, recipe.length)
    config = head_config(recipe.kind, target.spec, target.levels, recipe.depth, recipe.width)
    torch.manual_seed(recipe.seed)
    body = BODIES[recipe.kind](config)
    if start is not None:
        known = HeadWeights(head_of(config, start.name), start)
        body.load_state_dict({stored_name(name): known.get(name).float() for name in known.names})
    say(f"{recipe.kind}: {sum(p.numel() for p in body.parameters()) / 1e6:.2f} M parameters for {target.spec.name}")
    began, threads = time.process_time(), torch.get_num_threads()
    own = written(model, stream, recipe)
    torch.set_num_threads(threads)  # an engine leaves torch one
    if len(own):
        say(f"{len(own)} texts of the target's own, {time.process_time() - began:.0f} s")
    agreement = train(body, target, stream, own, recipe, say)
    export(body, config, out)
    report = {"recipe": asdict(recipe), "seconds": round(time.process_time() - began), "last_agreement": agreement}
    report["books"] = [{"title": book.title, "sha256": book.sha256, "held_out": bool(book.held_out)} for book in books]
    if start is not None:
        before = start / "training.json"
        report["start"] = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else str(start)
    if not any(book.held_out for book in books):
        say("no text has a chapter that the recipe holds out: what follows is measured on text that was trained on")
    report["measured"] = measure(model, out, recipe, held, say)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def written(model: Path | str, stream: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Windows in the target's own words. [texts, length]"""
    if not recipe.own:
        return np.zeros((0, recipe.length), np.int32)
    at = np.random.default_rng((recipe.seed, 0)).integers(0, len(stream) - recipe.begin, recipe.texts)
    beginnings = [stream[start : start + recipe.begin].tolist() for start in at]
    return np.array(list(continued(model, beginnings, recipe.length, recipe.temperature, recipe.seed)), np.int32)


def windows(stream: np.ndarray, own: np.ndarray, step: int, recipe: Recipe) -> Tensor:
    """The windows of a step. [rows, length]"""
    rng = np.random.default_rng((recipe.seed, 1, step))
    rows = []
    for _ in range(recipe.rows):
        if len(own) and rng.random() < recipe.own:
            rows.append(own[rng.integers(len(own))])
        else:
            start = rng.integers(0, len(stream) - recipe.length)
            rows.append(stream[start : start + recipe.length])
    return torch.from_numpy(np.stack(rows)).long()


def train(body: nn.Module, target: Target, stream: np.ndarray, own: np.ndarray, recipe: Recipe, say) -> list[float]:
    """The loop; returns how often the likeliest token was the target's, by depth, in the last steps."""
    matrices = [p for p in body.parameters() if p.ndim == 2]
    rest = [p for p in body.parameters() if p.ndim != 2]
    peaks = (recipe.muon_lr, recipe.adam_lr)
    optimizers = [
        Muon(matrices, lr=peaks[0]),
        torch.optim.AdamW(rest, lr=peaks[1], betas=(0.9, 0.95), weight_decay=0.0),
    ]
    steps, began, mean = max(1, recipe.tokens // (recipe.rows * recipe.length)), time.process_time(), torch.zeros(recipe.depth)
    for step in range(steps):
        loss, agreed = depths(body, target, windows(stream, own, step, recipe), recipe)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(body.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(step / steps, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        keep = min(0.98, step / (step + 1))
        mean = keep * mean + (1 - keep) * agreed
        if (step + 1) % 25 == 0 or step + 1 == steps:
            shares = " ".join(f"{share:.3f}" for share in mean.tolist())
            say(f"step {step + 1} of {steps}  loss {loss.item():.3f}  agrees {shares}  {time.process_time() - began:.0f} s")
    return [round(share, 4) for share in mean.tolist()]


def depths(body: nn.Module, target: Target, tokens: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """(loss, share of equal likeliest tokens at each depth [depth]) of a step's windows [rows, length].

    The loss of a depth is the cross-entropy with the target's distribution at the position that is guessed.
    """
    states, taught = target.read(tokens)
    wanted, best = taught.softmax(-1), taught.argmax(-1)  # [rows, length, vocab], [rows, length]
    loss, weights, agreed = 0.0, 0.0, []
    for depth, normed in enumerate(body.unroll(target.embedded(tokens), states)):
        logits, weight = target.logits(normed), recipe.fade**depth
        cost = F.cross_entropy(logits.flatten(0, 1), wanted[:, 1 + depth :].flatten(0, 1))
        loss, weights = loss + weight * cost, weights + weight
        agreed.append((logits.argmax(-1) == best[:, 1 + depth :]).float().mean())
    return loss / weights, torch.stack(agreed)


def schedule(part: float, recipe: Recipe) -> float:
    """Share of the peak learning rate after a `part` of the run."""
    return min(1.0, (part + 1e-3) / recipe.warmup, max(0.0, 1 - part) / recipe.decay)


def export(body: nn.Module, config: dict, out: Path) -> None:
    """Weights in bf16, and what they mean."""
    tensors = {name: parameter.detach().to(torch.bfloat16).contiguous() for name, parameter in body.named_parameters()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def measure(model: Path | str, out: Path, recipe: Recipe, held: Sequence[Sequence[int]], say: Callable[[str], None]) -> dict:
    """Tokens per step and acceptance by depth on held-out text, as the engine counts them, with the drafter's own options and nothing cut
    by the controller."""
    prompts = [ids[len(ids) // 3 :][:PROMPT] for ids in held if len(ids) > 3 * PROMPT // 2][:PROMPTS] or [list(held[0])[:PROMPT]]
    found = {}
    llm = LLM(model, speculate=f"{recipe.kind}:path={out}", control=False, threads=torch.get_num_threads())
    for heat in TEMPERATURES:
        before = llm.engine.core.meter.tally.copy()
        llm.generate(prompts, SamplingParams(max_tokens=NEW, temperature=heat, seed=recipe.seed, ignore_eos=True))
        tally = llm.engine.core.meter.tally.since(before)
        by_depth = [round(share, 3) for share in tally.by_depth(recipe.depth)]
        found[f"T={heat}"] = {"tokens_per_drafted_step": round(tally.per_draft, 3), "acceptance_by_depth": by_depth}
        say(f"T={heat}: {tally.per_draft:.2f} tokens per drafted step; right at depth 1, 2, ...: {by_depth}")
    llm.close()
    return found
