"""The GEMM sweep: every design on the layers of real models, over numbers of rows. Shared by the decode and the prefill case.

Weights are rotated through copies of more than the L2 cache, activations stay where they are, as in a step of a model.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch

from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.designs import DESIGNS, Product
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Layer, layers
from slipstream.ops.types import Declined

COLD = 256 << 20  # bytes of weights to go through before the first comes again: several times the L2 cache
MOST_COPIES = 12
SECONDS = 0.008  # of measuring per design and point


def sweep(bench: Bench, counts: Sequence[int], without: Sequence[str] = (), head: bool = True) -> None:
    """A point is a layer and a number of rows: all designs but those of `without` take turns there; `head`: the output head, too."""
    limits = bench.limits()
    prepared = lru_cache(maxsize=1)(lambda layer: prepare(bench, layer, without))
    points = [(layer, m) for layer in layers(bench.dry) if head or layer.name != "head" for m in counts]
    bench.each(points, lambda point: f"{point[0]} m={point[1]}", lambda point: compare(bench, limits, *point, prepared(point[0])))
    bench.limits()


def prepare(bench: Bench, layer: Layer, without: Sequence[str]) -> dict[str, list[Product]]:
    """Per design its products on copies of the weight."""
    if bench.device == "cuda":
        torch.cuda.empty_cache()
    weight = (torch.randn(layer.n, layer.k, device=bench.device) / layer.k**0.5).bfloat16()
    out: dict[str, list[Product]] = {}
    for design in (design for design in DESIGNS if design.name not in without):
        copies = bench.pick(int(min(MOST_COPIES, max(1, -(-COLD * 8 // int(layer.n * layer.k * design.bits))))), 1)
        try:
            made = [design.make(weight.clone()) for _ in range(copies)]
        except Exception as error:  # a design that cannot be prepared is a line, the others go on
            bench.failure(f"{layer} {design.name}", error)
            continue
        if isinstance(made[0], Declined):
            bench.unavailable(design.name, made[0].reason)
        else:
            out[design.name] = made
    return out


def compare(bench: Bench, limits: Limits, layer: Layer, m: int, prepared: dict[str, list[Product]]) -> None:
    """One row per design: time, share of its own roof, and beside it what was published."""
    x = torch.randn(m, layer.k, device=bench.device).bfloat16()
    candidates = {}
    for design in DESIGNS:
        if design.name in prepared:
            taken = design.take(x)
            candidates[design.name] = [lambda product=product, taken=taken: product(taken) for product in prepared[design.name]]
    found = bench.clock.compare(candidates, seconds=SECONDS)
    for design in DESIGNS:
        timing = found.get(design.name)
        if timing is None:
            continue
        if isinstance(timing, Exception):
            bench.failure(f"{layer} m={m} {design.name}", timing)
            continue
        size, operations = layer.n * layer.k * design.bits / 8 + 2 * m * layer.k + 2 * m * layer.n, 2.0 * m * layer.n * layer.k
        least = limits.seconds(size, operations, design.rate)
        published = bench.published.gemm(design.published, m, layer.n, layer.k) if design.published else None
        bench.row(
            model=layer.model, layer=layer.name, n=layer.n, k=layer.k, m=m, design=design.name, us=timing.median * 1e6,
            spread=timing.spread, roof_us=least * 1e6, roof=least / timing.median, binds=limits.binds(size, operations, design.rate),
            tflops=operations / timing.median / 1e12, published_us=published and published * 1e6, timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def answer(rows: list[dict]) -> list[str]:
    """Per number of rows: each design's time over all layers of a model, relative to cublas."""
    out = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for m in sorted({row["m"] for row in rows if row["model"] == model}):
            total: dict[str, list[float]] = {}
            for row in rows:
                if row["model"] == model and row["m"] == m:
                    total.setdefault(row["design"], []).append(row["us"])
            base = total.get("cublas")
            if base:
                whole = {name: sum(times) for name, times in total.items() if len(times) == len(base)}
                shown = ", ".join(f"{name} {sum(base) / seconds:.2f}" for name, seconds in sorted(whole.items(), key=lambda item: item[1]))
                out.append(f"{model}, m={m}: speed relative to cublas, {len(base)} layers: {shown}")
    return out
