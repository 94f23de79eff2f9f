"""P1, bit-invariance: does a row keep its bits whatever the number of rows, and wherever it stands among them?

Decides which kernels and which GEMM designs a deterministic profile may use. Also asks which designs agree bit by bit with one
another: if tiles of different sizes do, the tile may be chosen by the number of rows.
"""

import zlib
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from slipstream.bench.gpu import family_scenes, scenes
from slipstream.bench.gpu.bench import Bench, Unavailable
from slipstream.bench.gpu.designs import DESIGNS, Design
from slipstream.bench.gpu.shapes import Heads
from slipstream.ops.types import E4M3, Declined

QUESTION = "Which kernels and GEMM designs give a row the same bits for every number of rows and at every place?"
ORDER, SECONDS = 60, 80
COUNTS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 96, 127, 128, 129, 192, 255, 256, 257, 384, 512, 768, 1000, 1024)
COUNTS += (1536, 2048, 3000, 4096)
DRY_COUNTS = (1, 3)
LAYERS = ((6144, 4096), (4096, 14336), (28672, 4096))
DRY_LAYERS = ((40, 512),)
SHIFTS, DRY_SHIFTS = (1, 5, 64), (1,)  # the same rows again, this many places further on
Compute = Callable[[Sequence[int]], list[Tensor]]


def measure(bench: Bench) -> None:
    layers = bench.pick(LAYERS, DRY_LAYERS)
    points = [("gemm", design, layer) for layer in layers[:1] for design in DESIGNS]
    points += [("op", maker, None) for maker in ops(bench.dry)]
    points += [("agree", None, layer) for layer in layers]
    points += [("gemm", design, layer) for layer in layers[1:] for design in DESIGNS]
    bench.each(points, label, lambda point: one(bench, *point))


def label(point: tuple) -> str:
    kind, thing, layer = point
    name = {"gemm": lambda: thing.name, "op": lambda: thing[0], "agree": lambda: "designs agree"}[kind]()
    return f"{name} {layer[0]}x{layer[1]}" if layer else name


def one(bench: Bench, kind: str, thing, layer) -> None:
    if kind == "gemm":
        gemm(bench, thing, *layer)
    elif kind == "op":
        op(bench, *thing)
    else:
        agree(bench, *layer)


def ops(dry: bool) -> list[tuple[str, Callable]]:
    """(label, scene of as many rows as the greatest count needs)."""
    rows = max(DRY_COUNTS) + 1 if dry else 4096 + 64
    heads = Heads("small", 4, 2, 16) if dry else Heads("llama-3.1-8b", 32, 8, 128)
    hidden, width, vocab = (48, 40, 101) if dry else (4096, 14336, 32003)
    layer = (96, 128) if dry else (4096, 4096)
    few, some, context = min(rows, 320), min(rows, 1024 + 64), 20 if dry else 700
    return [
        ("norm", lambda: scenes.norm(rows, hidden, True)),
        ("attention", lambda: scenes.attention(few, heads, torch.bfloat16, context)),
        ("attention tree", lambda: scenes.attention(few, heads, torch.bfloat16, context, tree=4)),
        ("deterministic attention", lambda: scenes.attention(few, heads, torch.bfloat16, context, tree=4)),
        ("deterministic attention fp8", lambda: scenes.attention(few, heads, torch.float8_e4m3fn, context)),
        ("deterministic experts", lambda: family_scenes.experts(rows, hidden, width // 16)),
        ("attention fp32", lambda: scenes.attention(few, heads, torch.float32, context)),
        ("rope_write", lambda: scenes.rope_write(rows, heads, torch.bfloat16)),
        ("gated", lambda: scenes.gated(some, width)),
        ("embed", lambda: scenes.embed(rows, hidden, 50, torch.bfloat16)),
        ("sample", lambda: scenes.sample(few, vocab)),
        ("logprobs", lambda: scenes.logprobs(few, vocab)),
        *((f"linear_{f}", lambda f=f: scenes.linear(rows, *layer, f)) for f in ("bf16", "fp32")),
        *((f"deterministic linear_{f}", lambda f=f: scenes.linear(rows, *layer, f)) for f in ("bf16", "fp32", *E4M3)),
    ]


def op(bench: Bench, name: str, make: Callable[[], scenes.Scene]) -> None:
    kernels, scene = scenes.triton_kernels(name.startswith("deterministic")), make()
    if getattr(kernels, scene.op, True) is None:
        raise Unavailable(f"the Triton candidate has no {scene.op}")
    moved = scene.on(bench.device)
    counts = [count for count in bench.pick(COUNTS, DRY_COUNTS) if count + bench.pick(64, 1) <= scene.rows]
    report(bench, name, scene.label, lambda index: moved.compute(kernels, index), counts)


def gemm(bench: Bench, design: Design, n: int, k: int) -> None:
    x, product = inputs(bench, n, k), design.make(weight(bench, n, k))
    if isinstance(product, Declined):
        raise Unavailable(product.reason)
    wanted = x[:64].double() @ weight(bench, n, k).double().t()
    found = design.apply(product, x[:64].contiguous()).double()
    error = float((found - wanted).norm() / wanted.norm())
    report(
        bench, design.name, f"{n}x{k}", lambda index: [design.apply(product, x[list(index)])], bench.pick(COUNTS, DRY_COUNTS), error=error
    )


def agree(bench: Bench, n: int, k: int) -> None:
    """Which designs that compute the exact bf16 product give the same fp32 bits (those with bf16 results are left out)."""
    x, w = inputs(bench, n, k), weight(bench, n, k)
    by_bits: dict[int, list[str]] = {}
    for design in (design for design in DESIGNS if design.exact):
        product = design.make(w)
        if isinstance(product, Declined):
            continue
        for rows in bench.pick((1, 256), (1, 3)):
            out = design.apply(product, x[:rows].contiguous())
            if out.dtype is torch.float32:
                by_bits.setdefault(signature(out[:1]), []).append(f"{design.name}@{rows}")
    groups = [" = ".join(names) for names in by_bits.values()]
    bench.row(what="designs agree", shape=f"{n}x{k}", invariant=len(groups) == 1, classes=" | ".join(groups))


def report(bench: Bench, name: str, shape: str, compute: Compute, counts: Sequence[int], **more) -> None:
    """Computes the rows 0 .. count - 1 for every count, and again at other places; compares bits row by row."""
    most = max(counts)
    base = [out.clone() for out in compute(range(most))]
    first, prefix, place = {}, [], []
    for count in counts:
        found = compute(range(count))
        first[count] = zlib.crc32(b"".join(raw(out[:1]) for out in found))
        if not all(same(a, b[:count]) for a, b in zip(found, base, strict=True)):
            prefix.append(count)
        for shift in (shift for shift in bench.pick(SHIFTS, DRY_SHIFTS) if shift < count or count + shift <= most):
            order = [*range(count, count + shift), *range(count)] if count + shift <= most else [*range(shift, count), *range(shift)]
            moved = compute(order)
            back = torch.tensor(order).argsort()[: min(count, len(order))].to(found[0].device)
            reference = compute(sorted(order))
            if not all(same(a[back], b[: len(back)]) for a, b in zip(moved, reference, strict=True)):
                place.append(f"{count}+{shift}")
    classes = [(sign, [count for count, _ in group]) for sign, group in groupby(first.items(), key=lambda item: item[1])]
    shown = " | ".join(f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]) for _, group in classes)
    bench.row(
        what=name, shape=shape, invariant=not prefix and not place, counts_tried=len(counts), changes_by_count=len(prefix),
        changes_by_place=len(place), classes=shown, **more, raw={"prefix": prefix, "place": place, "signatures": first},
    )  # fmt: skip


def raw(out: Tensor) -> bytes:
    return out.contiguous().view(torch.uint8).cpu().numpy().tobytes()


def signature(out: Tensor) -> int:
    return zlib.crc32(raw(out))


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def inputs(bench: Bench, n: int, k: int) -> Tensor:
    generator = torch.Generator(bench.device).manual_seed(n + k)
    return torch.randn(max(bench.pick(COUNTS, DRY_COUNTS)), k, device=bench.device, generator=generator).bfloat16()


def weight(bench: Bench, n: int, k: int) -> Tensor:
    generator = torch.Generator(bench.device).manual_seed(n * k)
    return (torch.randn(n, k, device=bench.device, generator=generator) / k**0.5).bfloat16()


def answer(rows: list[dict]) -> list[str]:
    good = sorted({row["what"] for row in rows} - {row["what"] for row in rows if not row["invariant"]})
    bad = [f"{row['what']} {row['shape']}: {row['classes']}" for row in rows if not row["invariant"]]
    return [f"invariant wherever tried: {', '.join(good) or 'none'}", *(f"NOT invariant: {text}" for text in bad)]
