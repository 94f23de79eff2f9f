"""`slipstream train drafter --kind eagle --model PATH --data FILES --out DIR`: a folder that `--speculate eagle:path=DIR` loads.

Owns the way from files to a report: texts, the target, its own words, the loop (train/loop.py), and what the engine says of the result.
What counts is measured on text that nobody was trained on: tokens per step.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from slipstream.arch.heads import FUSED, head_config, head_of, stored_name
from slipstream.arch.spec import ModelSpec
from slipstream.base.errors import CheckpointError, InputError
from slipstream.engine.build import tokenizer_of
from slipstream.engine.llm import LLM
from slipstream.files.safetensors import SINGLE, read_json
from slipstream.step import SamplingParams
from slipstream.text.tokenizer import Tokenizer
from slipstream.train.books import read_book
from slipstream.train.heads import BODIES
from slipstream.train.lm import Llama
from slipstream.train.loop import Recipe, Target, beginnings, export, train
from slipstream.train.plain import PlainTarget, plain
from slipstream.train.target import EngineTarget, continued
from slipstream.weights.heads import HeadWeights

TEMPERATURES = (0.0, 0.8)
DRAFT, HEAD = "draft", 32  # the kind that is a model of its own, and the size of its heads
PROMPT, NEW, PROMPTS = 128, 96, 12  # of the measurement: tokens of a prompt, tokens that follow, prompts


def run(
    model: Path | str, data: Sequence[Path], out: Path, recipe: Recipe, *, device: str = "cpu", start: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:  # fmt: skip
    """Trains a drafter for `model` on the texts in `data` and writes the folder `out`; returns its report.

    Args:
        device: where it is trained, "cpu", "cuda" or "cuda:N"; what it brings is measured there too.
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
    stream, opening = np.concatenate([np.array(tokenizer.encode(book.train), np.int32) for book in books]), tokenizer.encode("")
    held = [tokenizer.encode(text) for text in ([book.held_out for book in books if book.held_out] or [book.train for book in books])]
    if len(stream) <= recipe.length:
        raise InputError(f"--data: {len(stream)} tokens are too few for windows of {recipe.length}; give longer texts")
    target = target_for(model, recipe, device)
    torch.manual_seed(recipe.seed)
    if recipe.kind == DRAFT:
        config = draft_config(target.spec, tokenizer, recipe.width)
        body, speculate = Llama(config), f"draft_model:path={out}"
        tokenizer.save(out)
        if start is not None:
            _begin(body, config, start)
    else:
        kind = FUSED.get(recipe.kind, recipe.kind)
        config = head_config(kind, target.spec, target.levels, recipe.depth, recipe.width)
        body, speculate = BODIES[kind](config), f"{kind}:path={out}"
        if start is not None:
            known = HeadWeights(head_of(config, start.name), start)
            body.load_state_dict({stored_name(name): known.get(name).float() for name in known.names})
    body.to(device)
    say(f"{recipe.kind}: {sum(p.numel() for p in body.parameters()) / 1e6:.2f} M parameters for {target.spec.name}")
    began = time.monotonic()
    own = written(model, target, stream, recipe, opening)
    if len(own):
        say(f"{len(own)} texts of the target's own, {time.monotonic() - began:.0f} s")
    agreement = train(body, target, stream, own, recipe, say, opening, fits=start is None)
    export(body, config, out)
    report = {"recipe": asdict(recipe), "seconds": round(time.monotonic() - began), "last_agreement": agreement}
    report["books"] = [{"title": book.title, "sha256": book.sha256, "held_out": bool(book.held_out)} for book in books]
    if start is not None:
        before = start / "training.json"
        report["start"] = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else str(start)
    if not any(book.held_out for book in books):
        say("no text has a chapter that the recipe holds out: what follows is measured on text that was trained on")
    report["measured"] = measure(model, speculate, recipe, held, device, say)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def _begin(body: Llama, config: dict, start: Path) -> None:
    """Takes the weights of a small model of the same shape."""
    known = read_json(start / "config.json") if (start / "config.json").is_file() else {}
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"):
        if known.get(name) != config[name]:
            found = f"{name}={known.get(name)}, but this small model has {config[name]}"
            raise CheckpointError(f"--start {start}: {found}; take one of its shape")
    tensors = load_file(start / SINGLE)
    body.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in tensors.items()})


def draft_config(target: ModelSpec, tokenizer: Tokenizer, width: int) -> dict:
    """The config.json of a small model: two layers, half as wide as the target, `width` inside."""
    hidden = max(HEAD, target.hidden // 2 // HEAD * HEAD)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": hidden // HEAD,
        "num_key_value_heads": hidden // HEAD,
        "vocab_size": target.vocab,
        "max_position_embeddings": target.max_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "eos_token_id": list(tokenizer.ends),
    }


def target_for(model: Path | str, recipe: Recipe, device: str) -> Target:
    """The engine's own forward passes, which compute every model; on a GPU plain torch where that can."""
    if device != "cpu" and plain(model):
        return PlainTarget(model, recipe.levels, device, recipe.kind)
    return EngineTarget(model, recipe.levels, recipe.rows, recipe.length, device, recipe.kind)


def written(model: Path | str, target: Target, stream: np.ndarray, recipe: Recipe, opening: Sequence[int]) -> np.ndarray:
    """Windows in the target's own words. [texts, length]

    Args:
        opening: tokens that every text begins with.
    """
    if not recipe.own:
        return np.zeros((0, recipe.length), np.int32)
    begins = beginnings(stream, recipe, opening)
    if isinstance(target, PlainTarget):
        return target.written(torch.from_numpy(begins), recipe.length, recipe.temperature, recipe.seed).cpu().numpy()
    threads = torch.get_num_threads()
    texts = list(continued(model, begins.tolist(), recipe.length, recipe.temperature, recipe.seed, target.device))
    torch.set_num_threads(threads)  # an engine leaves torch one
    return np.array(texts, np.int32)


def measure(
    model: Path | str, speculate: str, recipe: Recipe, held: Sequence[Sequence[int]], device: str, say: Callable[[str], None]
) -> dict:
    """Tokens per step and acceptance by depth on held-out text, as the engine counts them, with the drafter's own options and nothing cut
    by the controller."""
    prompts = [ids[len(ids) // 3 :][:PROMPT] for ids in held if len(ids) > 3 * PROMPT // 2][:PROMPTS] or [list(held[0])[:PROMPT]]
    found = {}
    llm = LLM(model, device=device, speculate=speculate, control=False, threads=torch.get_num_threads())
    for heat in TEMPERATURES:
        before = llm.engine.core.meter.tally.copy()
        llm.generate(prompts, SamplingParams(max_tokens=NEW, temperature=heat, seed=recipe.seed, ignore_eos=True))
        tally = llm.engine.core.meter.tally.since(before)
        by_depth = [round(share, 3) for share in tally.by_depth(recipe.depth)]
        found[f"T={heat}"] = {"tokens_per_drafted_step": round(tally.per_draft, 3), "acceptance_by_depth": by_depth}
        say(f"T={heat}: {tally.per_draft:.2f} tokens per drafted step; right at depth 1, 2, ...: {by_depth}")
    llm.close()
    return found
