"""The recipe of the built-in model: tokenizer, model, training loop, export, report.

Owns hyper-parameters and the loop. `slipstream train demo --data BOOK.txt.gz ... --out DIR` repeats it; a run that was
stopped goes on from its last snapshot. The result is an ordinary Hugging Face folder (config.json, tokenizer.json,
model.safetensors) plus training.json, which says what it was trained on and how well it does.
"""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from slipstream.base.errors import InputError
from slipstream.train import baselines
from slipstream.train.books import Book, read_book
from slipstream.train.lm import Llama

END = "<|endoftext|>"
SIZES = {
    "demo": dict(hidden_size=256, intermediate_size=704, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4),
    "draft": dict(hidden_size=128, intermediate_size=352, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2),
}


@dataclass(frozen=True)
class Recipe:
    """What a training run is made of.

    Attributes:
        size: name of a shape in SIZES.
        tokens: how many tokens to train on in all.
        rows, length: sequences per step and tokens per sequence; the last `long_part` of the run uses `long_length`
            at the same number of tokens per step, so that the model has seen the full context it claims.
        muon_lr, adam_lr: peak learning rates of the hidden matrices (Muon, Jordan et al. 2024) and of the rest (AdamW).
        warmup, decay: shares of the run; constant between, linear to zero at the end, so that a run can be prolonged.
        distil: weight of the teacher's distribution in the loss (0: plain next-token loss).
    """

    size: str = "demo"
    tokens: int = 18_000_000
    rows: int = 8
    length: int = 512
    long_length: int = 1024
    long_part: float = 0.15
    vocab: int = 4096
    muon_lr: float = 0.015
    adam_lr: float = 0.003
    warmup: float = 0.02
    decay: float = 0.35
    distil: float = 0.0
    seed: int = 1


def run(data: list[Path], out: Path, recipe: Recipe, *, teacher: Path | None = None, say=print) -> dict:
    """Trains a model of `recipe` on the books in `data` and writes the checkpoint folder `out`; returns its report."""
    out.mkdir(parents=True, exist_ok=True)
    books = [read_book(path) for path in sorted(data)]
    if not any(book.held_out for book in books):
        raise InputError("--data: none of these books has a held-out chapter in the recipe, so nothing could be measured")
    tokenizer = prepare_tokenizer(books, recipe, out, teacher)
    stream, starts = encode(tokenizer, [book.train for book in books])
    say(f"{len(books)} books, {sum(len(b.train.encode()) for b in books) / 1e6:.1f} MB, {len(stream) / 1e6:.2f} M tokens")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    model = Llama(model_config(recipe, tokenizer)).to(device)
    guide = load_teacher(teacher, device) if teacher is not None else None
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters on {device}")
    train(model, guide, stream, starts, recipe, out, say)
    report = measure(model, tokenizer, books, recipe)
    export(model, out, report)
    return report


def prepare_tokenizer(books: list[Book], recipe: Recipe, out: Path, teacher: Path | None) -> Tokenizer:
    """Byte-level BPE trained on the books; a sibling takes its teacher's, so that the two can verify each other."""
    path = out / "tokenizer.json"
    if teacher is not None:
        path.write_bytes((teacher / "tokenizer.json").read_bytes())
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=recipe.vocab, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator([book.train for book in books], trainer)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
        tokenizer.save(str(path), pretty=False)
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """All texts as one token stream, and the offsets at which a paragraph starts (where a training window may begin)."""
    ids, starts, total = [], [], 0
    for text in texts:
        paragraphs = text.split("\n\n")
        pieces = [paragraph + "\n\n" for paragraph in paragraphs[:-1]] + [paragraphs[-1]]
        for piece in tokenizer.encode_batch(pieces, add_special_tokens=False):
            starts.append(total)
            ids.extend(piece.ids)
            total += len(piece.ids)
        ids.append(0)
        total += 1
    return np.array(ids, np.int32), np.array(starts, np.int64)


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **SIZES[recipe.size],
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": recipe.long_length,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "bfloat16",
    }


def load_teacher(folder: Path, device: str) -> Llama:
    teacher = Llama(json.loads((folder / "config.json").read_text()))
    teacher.load_state_dict({name.removeprefix("model."): t.float() for name, t in load_file(folder / "model.safetensors").items()})
    return teacher.to(device).eval().requires_grad_(False)


def optimizers(model: Llama, recipe: Recipe) -> list[torch.optim.Optimizer]:
    hidden = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(hidden, lr=recipe.muon_lr, momentum=0.95, weight_decay=0.02),
        torch.optim.AdamW(rest, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(done: int, recipe: Recipe) -> float:
    """Share of the peak learning rate after `done` tokens: warm up, stay, fall to zero."""
    part = done / recipe.tokens
    return min(1.0, (part + 1e-4) / recipe.warmup, max(0.0, 1 - part) / recipe.decay)


def windows(stream: np.ndarray, starts: np.ndarray, rows: int, length: int, rng: np.random.Generator) -> torch.Tensor:
    """`rows` training windows [rows, length + 1]: the start token, then text from the start of a paragraph."""
    usable = starts[: np.searchsorted(starts, len(stream) - length)]
    chosen = rng.choice(usable, rows)
    body = stream[chosen[:, None] + np.arange(length)]
    return torch.from_numpy(np.concatenate([np.zeros((rows, 1), np.int32), body], 1)).long()


def train(model: Llama, guide: Llama | None, stream: np.ndarray, starts: np.ndarray, recipe: Recipe, out: Path, say) -> None:
    """The loop. Snapshots into `out/snapshot.pt` every two minutes and when interrupted; a later call goes on from there."""
    run_ = Run(model, optimizers(model, recipe), out / "snapshot.pt")
    if run_.resume():
        say(f"going on from {run_.done / 1e6:.2f} M tokens")
    device, first, began, smooth = model.norm.weight.device, run_.done, time.time(), None
    try:
        while run_.done < recipe.tokens:
            long = run_.done >= (1 - recipe.long_part) * recipe.tokens
            length = recipe.long_length if long else recipe.length
            rows = max(1, recipe.rows * recipe.length // length)
            batch = windows(stream, starts, rows, length, np.random.default_rng((recipe.seed, run_.step))).to(device)
            loss = train_step(model, guide, batch, run_.optimizers, schedule(run_.done, recipe), recipe)
            run_.done, run_.step = run_.done + rows * length, run_.step + 1
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            if run_.step % 20 == 0:
                pace = (run_.done - first) / (time.time() - began)
                say(f"step {run_.step}  {run_.done / 1e6:6.2f} M tokens  loss {smooth:.3f}  {pace:.0f} tokens/s")
                run_.save_if_due()
    finally:
        run_.save()


@dataclass
class Run:
    """A training run as far as it has come."""

    model: Llama
    optimizers: list[torch.optim.Optimizer]
    snapshot: Path
    done: int = 0
    step: int = 0
    saved_at: float = 0.0

    def resume(self) -> bool:
        """Takes up the last snapshot, if there is one."""
        self.saved_at = time.time()
        if not self.snapshot.exists():
            return False
        state = torch.load(self.snapshot, weights_only=True)
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.done, self.step = state["done"], state["step"]
        return True

    def save(self) -> None:
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = {"model": self.model.state_dict(), "optimizers": optimizers, "done": self.done, "step": self.step}
        part = self.snapshot.with_suffix(".part")
        torch.save(state, part)
        part.replace(self.snapshot)  # never a half-written snapshot in the place of a whole one
        self.saved_at = time.time()

    def save_if_due(self) -> None:
        if time.time() - self.saved_at > 120:
            self.save()


def train_step(model: Llama, guide: Llama | None, batch: torch.Tensor, rest, scale: float, recipe: Recipe) -> float:
    """One update on `batch` [rows, length + 1]; returns the next-token loss in nats."""
    with torch.autocast(batch.device.type, torch.bfloat16):
        logits = model(batch[:, :-1]).flatten(0, 1).float()  # [rows * length, vocab]
    loss = plain = F.cross_entropy(logits, batch[:, 1:].flatten())
    if guide is not None:
        with torch.no_grad(), torch.autocast(batch.device.type, torch.bfloat16):
            target = guide(batch[:, :-1]).flatten(0, 1).float().softmax(-1)
        loss = (1 - recipe.distil) * plain + recipe.distil * F.cross_entropy(logits, target)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, peak in zip(rest, (recipe.muon_lr, recipe.adam_lr), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = peak * scale
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return plain.item()


@torch.no_grad()
def measure(model: Llama, tokenizer: Tokenizer, books: list[Book], recipe: Recipe) -> dict:
    """Bits per byte on the held-out chapters, in windows of the full context with half of it as overlap."""
    held = [book for book in books if book.held_out]
    chapters, nats, size = {}, 0.0, 0
    for book in held:
        ids = tokenizer.encode(book.held_out).ids
        cost = chapter_nats(model, ids, recipe.long_length)
        bytes_ = len(book.held_out.encode())
        chapters[book.title] = round(cost / math.log(2) / bytes_, 4)
        nats, size = nats + cost, size + bytes_
    text = "".join(book.held_out for book in held)
    return {
        "recipe": asdict(recipe),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bits_per_byte": round(nats / math.log(2) / size, 4),
        "bits_per_byte_by_chapter": chapters,
        "baselines_bits_per_byte": baselines.bits_per_byte("".join(book.train for book in books), text),
        "held_out_bytes": size,
        "books": [{"title": b.title, "sha256": b.sha256, "source": "Project Gutenberg", "held_out": bool(b.held_out)} for b in books],
    }


def chapter_nats(model: Llama, ids: list[int], context: int) -> float:
    """Negative log likelihood of `ids[1:]`, in nats."""
    device, total = model.norm.weight.device, 0.0
    model.eval()
    for tokens, known in overlapping(ids, context):
        window = torch.tensor(tokens, device=device)
        logits = model(window[None, :-1])[0].float()
        total += F.cross_entropy(logits[known:], window[1 + known :], reduction="sum").item()
    return total


def overlapping(ids: list[int], context: int) -> Iterator[tuple[list[int], int]]:
    """Windows in which every one of `ids[1:]` is predicted once, from between context/2 and context tokens before it.

    Args:
        ids: a text, its start token first.
        context: tokens that a model sees at a time, at least 2.

    Yields:
        (tokens, how many of their predictions an earlier window has made): up to context + 1 tokens, so context predictions.
    """
    at = 0
    while at == 0 or at + context // 2 < len(ids) - 1:
        yield ids[at : at + context + 1], 0 if at == 0 else context // 2
        at += context // 2


def export(model: Llama, out: Path, report: dict) -> None:
    save_file(model.checkpoint(), out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(model.config, indent=2) + "\n")
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
