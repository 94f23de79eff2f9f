"""bf16 products of few rows: every form on the layers of two models, alone and in the chain of a step, beside cuBLAS.

In the chain kernels overlap as they do in a step: own products read their first weights while the kernel before them ends. What is
launched is compiled before, by all cores, into Triton's cache.
"""

from functools import partial

import torch
from torch import Tensor

from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.dense_forms import FORMS, Chain, multiply, name, random, ways
from slipstream.bench.gpu.gemm_sweep import COLD, MOST_COPIES
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Layer, layers
from slipstream.ops.triton import direct, plain

QUESTION = "Up to how many rows is the own bf16 product faster than cuBLAS, alone and between the kernels of a step?"
ORDER, SECONDS = 71, 40
MODELS = ("llama-3.1-8b", "llama-3.2-1b")
COUNTS, DRY_COUNTS = (1, 8, 16, 4, 32), (1,)
CHAINED, DRY_CHAINED = (1, 8, 16), (2,)
SECONDS_EACH = 0.005  # of measuring per way and point
DEEP = 600e6  # bytes of weights in a chain: more than caches hold
CHECKED = 16  # rows compared with fp64


def measure(bench: Bench) -> None:
    if not bench.dry:
        compile_ahead(bench, [direct.variant(False, form) for form in FORMS])
    limits, shapes = bench.limits(), layers(bench.dry, MODELS)
    chains = [(model, m) for m in bench.pick(CHAINED, DRY_CHAINED) for model in dict.fromkeys(layer.model for layer in shapes)]
    products = [(layer, m) for m in bench.pick(COUNTS, DRY_COUNTS) for layer in shapes]
    bench.each(chains, lambda point: f"{point[0]} chain m={point[1]}", lambda point: chain(bench, limits, shapes, *point))
    bench.each(products, lambda point: f"{point[0]} m={point[1]}", lambda point: alone(bench, limits, *point))


def chain(bench: Bench, limits: Limits, shapes: list[Layer], model: str, m: int) -> None:
    """One row per way: time of the chain per layer, and the share of it that reading the weights takes."""
    named = {layer.name: layer for layer in shapes if layer.model == model}
    size = 2 * sum(layer.n * layer.k for key, layer in named.items() if key != "head")
    count = bench.pick(max(2, int(-(-DEEP // size))), 1)
    made = Chain.of(named, count, m, bench.device)
    found = bench.clock.compare({name(way): [partial(made.run, way)] for way in ways(m, bench.dry)}, seconds=4 * SECONDS_EACH)
    _rows(bench, found, limits.seconds(made.bytes, 2.0 * m * made.bytes / 2), count, {"model": model, "layer": "chain", "m": m}, {})


def alone(bench: Bench, limits: Limits, layer: Layer, m: int) -> None:
    """One row per way: time, share of the roof, and the distance from fp64."""
    size = 2 * layer.n * layer.k
    copies = bench.pick(min(MOST_COPIES, max(1, -(-COLD // size))), 1)
    made = [plain.plain(random(layer, bench.device)) for _ in range(copies)]
    x, out = torch.randn(m, layer.k, device=bench.device).bfloat16(), torch.empty(m, layer.n, device=bench.device)
    calls = {name(way): [partial(multiply, way, x, one, out) for one in made] for way in ways(m, bench.dry)}
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    errors = {key: error(x, made[0].weight, calls[key][0]()) for key, timing in found.items() if not isinstance(timing, Exception)}
    least = limits.seconds(size + 2 * m * layer.k + 4 * m * layer.n, 2.0 * m * layer.n * layer.k)
    _rows(bench, found, least, 1, {"model": layer.model, "layer": layer.name, "m": m}, errors)


def _rows(bench: Bench, found: dict, least: float, count: int, point: dict, errors: dict[str, float]) -> None:
    base = found.get(plain.CUBLAS)
    for key, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{point} {key}", timing)
            continue
        bench.row(
            **point, form=key, us=timing.median * 1e6 / count, spread=timing.spread, roof=least / timing.median,
            times_cublas=None if base is None or isinstance(base, Exception) else base.median / timing.median,
            error=errors.get(key), timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def error(x: Tensor, weight: Tensor, out: Tensor) -> float:
    """Relative distance of the first rows from the product in fp64."""
    wanted = torch.cat([x[:CHECKED].double() @ part.double().t() for part in weight.split(16384)], 1)
    return float((out[:CHECKED].double() - wanted).norm() / wanted.norm())


def answer(rows: list[dict]) -> list[str]:
    """What is far from fp64 first; then per point the ways by time."""
    out = [f"WRONG: {r['form']} {r['model']} {r['layer']} m={r['m']}: error {r['error']:.1e}" for r in rows if (r["error"] or 0) > 1e-5]
    for point in dict.fromkeys((row["model"], row["layer"], row["m"]) for row in rows):
        here = sorted((row for row in rows if (row["model"], row["layer"], row["m"]) == point), key=lambda row: row["us"])
        shown = ", ".join(f"{row['form']} {row['us']:.1f} ({row['roof']:.0%})" for row in here)
        out.append(f"{point[0]} {point[1]} m={point[2]}, us and share of the roof: {shown}")
    return out
