"""Inputs for the ops, row by row, so that the same row can be computed in any company. Owns the scenes; knows the op contract only.

A scene holds its inputs on the CPU. `on(device)` moves them; `compute(kernels, index)` computes the rows `index` (a row may
come several times) and returns all outputs that belong to rows, first dimension = rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from slipstream.base import registry
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops import triton as candidate
from slipstream.ops import triton_deterministic
from slipstream.ops.reference.cached import coded
from slipstream.ops.types import FAMILY_OPS, KV, OPS, ROUND_OPS, AttentionRows, Declined, SampleRows, coded_pages, scale_bytes

EXACT = 0.0
Compute = Callable[[Any, dict[str, Tensor], Tensor], list[Tensor]]  # kernels, tensors, index [n] int64


@dataclass(frozen=True)
class Scene:
    """One op on one set of rows.

    Attributes:
        op: name of the op; "linear_bf16" and so on for the linear layers.
        label: which shape.
        rows: how many there are.
        tensors: the inputs by name.
        run: computes some rows.
        tolerance: greatest allowed distance from the reference, relative to its norm; EXACT for the same numbers.
        agree: for outputs that are ids: least share of rows that must be the same (ties may fall differently).
        bytes: moved per row, for a roofline. shared_bytes: moved once, whatever the rows.
    """

    op: str
    label: str
    rows: int
    tensors: dict[str, Tensor]
    run: Compute
    tolerance: float = 1e-5
    agree: float = 1.0
    bytes: float = 0.0
    shared_bytes: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.op} {self.label}"

    def on(self, device: str) -> "Scene":
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def compute(self, kernels: Any, index: Sequence[int]) -> list[Tensor]:
        device = next(iter(self.tensors.values())).device
        return self.run(kernels, self.tensors, torch.tensor(index, dtype=torch.int64, device=device))


def triton_kernels(deterministic: bool = False) -> SimpleNamespace:
    """The Triton candidate's callables, whatever device there is; `linear(format)` and `experts(format)` too, those of deterministic
    settings if asked for. An op that it does not have is None."""
    linear = triton_deterministic if deterministic else candidate
    fixed = triton_deterministic.ATTENTION if deterministic else ()
    ops = {op: (linear if op in fixed else candidate).offer(op, "cuda") for op in OPS + ROUND_OPS + FAMILY_OPS}
    served = {op: None if isinstance(answer, Declined) else answer for op, answer in ops.items()}
    by_format = {name: lambda format, name=name: linear.offer(f"{name}_{format}", "cuda") for name in ("linear", "experts")}
    return SimpleNamespace(**served, **by_format)


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(high: int, count: int, seed: int) -> Tensor:
    return torch.randint(high, (count,), generator=torch.Generator().manual_seed(seed)).int()


def embed(rows: int, hidden: int, vocab: int, dtype: torch.dtype) -> Scene:
    def run(kernels, t, index):
        out = torch.full((len(index), hidden), torch.nan, device=index.device)
        kernels.embed(t["ids"][index], t["table"], out)
        return [out]

    tensors = {"ids": whole(vocab, rows, 1), "table": noise(vocab, hidden, seed=2).to(dtype)}
    return Scene("embed", f"{hidden} {_name(dtype)}", rows, tensors, run, EXACT, bytes=hidden * (4 + dtype.itemsize))


def norm(rows: int, hidden: int, residual: bool) -> Scene:
    def run(kernels, t, index):
        x, out = t["x"][index], torch.full((len(index), hidden), torch.nan, device=index.device)
        kernels.norm(x, t["weight"], 1e-5, out, t["residual"][index] if residual else None)
        return [x, out]

    tensors = {"x": noise(rows, hidden, seed=1), "residual": noise(rows, hidden, seed=2), "weight": noise(hidden, seed=3)}
    label = f"{hidden}{' residual' if residual else ''}"
    return Scene("norm", label, rows, tensors, run, bytes=hidden * (16 if residual else 8), shared_bytes=4 * hidden)


def gated(rows: int, width: int) -> Scene:
    def run(kernels, t, index):
        out = torch.full((len(index), width), torch.nan, device=index.device)
        kernels.gated(t["gate_up"][index], out)
        return [out]

    return Scene("gated", str(width), rows, {"gate_up": noise(rows, 2 * width, seed=1) * 4}, run, bytes=12 * width)


def rope_write(rows: int, heads: Heads, dtype: torch.dtype, page_size: int = 16) -> Scene:
    half = heads.head_dim // 2

    def run(kernels, t, index):
        qkv, count = t["qkv"][index], len(index)
        shape = (-(-3 * count // page_size) + 1, heads.kv_heads, page_size, heads.head_dim + scale_bytes(dtype))
        kv = KV(*(torch.zeros(shape, dtype=dtype, device=index.device) for _ in range(2)))
        slots = torch.arange(count, device=index.device, dtype=torch.int32) * 3
        kernels.rope_write(qkv, t["positions"][index], slots, t["table"], kv, heads.heads)
        page, offset = slots.long() // page_size, slots.long() % page_size
        parts = [part for cached in (kv.keys, kv.values) for part in (coded_pages(cached) if scale_bytes(dtype) else (cached,))]
        found = [part[page, :, offset] for part in parts]
        return [qkv, *(part.view(dtype).float() if part.dtype is torch.uint8 else part for part in found)]

    angle = torch.arange(1024).double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
    tensors = {
        "qkv": noise(rows, heads.width, seed=1),
        "positions": whole(1024, rows, 2),
        "table": torch.stack([angle.cos(), angle.sin()], 1).float(),
    }
    moved = 8 * heads.width + 2 * heads.kv_heads * heads.head_dim * dtype.itemsize
    tolerance = 1e-6 if dtype is torch.float32 else 5e-3 if scale_bytes(dtype) else 1e-4  # a rounding may fall the other way
    label = f"{heads.heads}/{heads.kv_heads}x{heads.head_dim} {_name(dtype)}"
    return Scene("rope_write", label, rows, tensors, run, tolerance, bytes=moved)


def attention(rows: int, heads: Heads, dtype: torch.dtype, context: int, window: int = 0, tree: int = 0, page_size: int = 16) -> Scene:
    """Rows of `rows` / 4 requests of up to `context` keys at scattered positions; every third row has its last `tree` keys as tail
    slots. Slots that nobody may read hold NaN."""
    requests = max(1, rows // 4)
    per_request = -(-context // page_size) + 1
    used = requests * per_request
    spare = -(-max(1, rows * tree) // page_size)
    shape = (used + spare + 1, heads.kv_heads, page_size, heads.head_dim)
    keys, values = (cache(noise(*shape, seed=seed), dtype) for seed in (1, 2))
    for cached in (keys, values):
        cached.view(torch.uint8)[-1] = 255  # NaN
    table = torch.randperm(used, generator=torch.Generator().manual_seed(3)).view(requests, per_request).int()
    request = whole(requests, rows, 4)
    positions = whole(context - tree, rows, 5) + tree
    tails = torch.where(torch.arange(rows) % 3 == 2, tree, 0).int()
    slots = (used * page_size + torch.arange(rows * tree)).view(rows, tree).int()  # row r's own, in path order

    def run(kernels, t, index):
        count = t["tails"][index]
        start = torch.zeros(len(index) + 1, dtype=torch.int32, device=index.device)
        start[1:] = count.cumsum(0)
        tail_slots = t["slots"][index][count > 0].flatten()
        facts = AttentionRows(
            t["request"][index], t["positions"][index], t["positions"][index] + 1 - count, start, tail_slots.contiguous(), t["page_table"]
        )
        out = torch.full((len(index), heads.heads * heads.head_dim), torch.nan, device=index.device)
        kernels.attention(t["qkv"][index], KV(t["keys"], t["values"]), facts, heads.heads, heads.head_dim**-0.5, window, out)
        return [out]

    tensors = {
        "qkv": noise(rows, heads.width, seed=6), "keys": keys, "values": values, "page_table": table, "request": request,
        "positions": positions, "tails": tails, "slots": slots,
    }  # fmt: skip
    more = f"{f' window {window}' if window else ''}{f' tree {tree}' if tree else ''}"
    label = f"{heads.heads}/{heads.kv_heads}x{heads.head_dim} {_name(dtype)} context {context}{more}"
    return Scene("attention", label, rows, tensors, run, {torch.float32: 1e-5, torch.bfloat16: 8e-3}.get(dtype, 2e-3))


def cache(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [pages, kv_heads, page_size, head_dim] as a cache of this type holds them."""
    if not scale_bytes(dtype):
        return numbers.to(dtype)
    made = torch.empty(*numbers.shape[:-1], numbers.shape[-1] + scale_bytes(dtype), dtype=dtype)
    codes, scales = coded_pages(made)
    codes[:], scales[:] = coded(numbers)
    return made


def linear(rows: int, n: int, k: int, format: str) -> Scene:
    """A layer in a format that weights can be rounded to, or in fp8 with a scale per output and 128 inputs."""
    weight, by_block = noise(n, k, seed=5) / math.sqrt(k), format == "fp8_block"
    stored = registry.load("slipstream.quant.formats", "fp8" if by_block else format).quantise(weight.view(-1, 128) if by_block else weight)
    if by_block:
        stored = {"weight": stored["weight"].view(n, k), "scale": stored["scale"].view(n, k // 128)}
    tensors = {"x": noise(rows, k, seed=1), "bias": noise(n, seed=2), **stored}

    def run(kernels, t, index):
        kernel = kernels.linear(format)
        out = torch.full((len(index), n), torch.nan, device=index.device)
        prepared = kernel.prepare({name: t[name] for name in stored})
        kernel.run(t["x"][index], prepared, t["bias"], out)
        return [out]

    return Scene(f"linear_{format}", f"{n}x{k}", rows, tensors, run, {"fp32": 1e-5, "bf16": 5e-3}.get(format, 2e-2))


def sample(rows: int, vocab: int) -> Scene:
    choice = torch.arange(rows) % 6
    off = torch.zeros(rows)
    tensors = {
        "logits": noise(rows, vocab, seed=1) * 3,
        "temperature": torch.where(choice == 0, 0.0, 0.8),
        "top_k": torch.where(choice == 1, 20, 0).int(),
        "top_p": torch.where(choice == 2, 0.7, off + 1),
        "min_p": torch.where(choice == 3, 0.05, off),
        "seed": torch.randint(-(2**63), 2**63 - 1, (rows,), generator=torch.Generator().manual_seed(2)),
        "position": torch.arange(rows).int(),
        "sample": (torch.arange(rows) % 3).int(),
    }

    def run(kernels, t, index):
        out = torch.full((len(index),), -1, dtype=torch.int32, device=index.device)
        kernels.sample(t["logits"][index], SampleRows(*(t[name][index] for name in SampleRows.__slots__)), out)
        return [out]

    return Scene("sample", str(vocab), rows, tensors, run, EXACT, agree=0.98, bytes=4 * vocab)


def logprobs(rows: int, vocab: int, top: int = 5) -> Scene:
    def run(kernels, t, index):
        return list(kernels.logprobs(t["logits"][index], t["tokens"][index], top))

    tensors = {"logits": noise(rows, vocab, seed=1) * 3, "tokens": whole(vocab, rows, 3)}
    return Scene("logprobs", f"{vocab} top {top}", rows, tensors, run, bytes=4 * vocab)


def move(pairs: int, heads: Heads, dtype: torch.dtype, layers: int = 2, page_size: int = 16) -> Scene:
    """Not by rows: the whole pool is the one output, `index` is not looked at."""

    def run(kernels, t, index):
        pool = t["pool"].clone()
        kernels.move(pool, t["source"], t["target"])
        return [pool]

    pages = 8
    tensors = {
        "pool": cache(noise(layers, 2, pages, heads.kv_heads, page_size, heads.head_dim, seed=1), dtype),
        "source": whole(pages * page_size, pairs, 2),
        "target": whole(pages * page_size, pairs, 3),
    }
    return Scene("move", f"{heads.kv_heads}x{heads.head_dim} {_name(dtype)}", 1, tensors, run, EXACT)


def lay_out(requests: int, each: int, page_size: int = 16, pages: int = 40) -> Scene:
    """Not by rows: all that is laid out is the one output. Every third request only fills up."""

    def run(kernels, t, index):
        out = torch.zeros(2, 6, requests * each, dtype=torch.int32, device=t["places"].device)
        kernels.lay_out(t["places"], t["noises"], t["seats"], t["table"], page_size, 7, each, out, -1, t["tokens"])
        return [out]

    places = whole(page_size * pages, requests, 1)
    places[::3] = -1
    tensors = {"places": places, "noises": whole(1000, requests, 2), "seats": whole(5, requests, 3)}
    tensors |= {"table": whole(99, 5 * pages, 4).view(5, pages), "tokens": whole(50, each * requests, 5).view(each, requests)}
    return Scene("lay_out", f"{requests}x{each}", 1, tensors, run, EXACT)


def walk(requests: int, each: int) -> Scene:
    """Not by rows: the numbers of all requests are the outputs. Few tokens, so that many guesses are right; every third only fills up."""

    def run(kernels, t, index):
        tokens, starts, read, turns = (t[name].clone() for name in ("tokens", "starts", "read", "turns"))
        picked, history = torch.zeros_like(starts), torch.zeros(3, requests * (each + 1), dtype=torch.int32, device=starts.device)
        kernels.walk(t["said"], tokens, starts, read, turns, picked, history, each)
        return [tokens, starts, read, turns, picked, history]

    starts = whole(1000, requests, 1)
    starts[::3] = -1
    tensors = {"said": whole(2, requests * each, 2), "tokens": whole(2, each * requests, 3).view(each, requests), "starts": starts}
    tensors |= {"read": whole(1000, requests, 4), "turns": whole(3, requests, 5)}
    return Scene("walk", f"{requests}x{each}", 1, tensors, run, EXACT)


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8"}[dtype]
