"""Products of few rows, weights in bf16 and e4m3: every form on the layers of two models, alone and in the chain of a step; of 4 bits in
the chain only, see packed_forms.

In the chain kernels overlap as they do in a step: own products read their first weights while the kernel before them ends. Beside them
cuBLAS, or for e4m3 the tiles of fp8.py, activations in bf16 quantised within what is timed. What is launched is compiled before, by
all cores, into Triton's cache.
"""

from functools import partial

import torch
from torch import Tensor

from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.deciding import TABLE, Sample
from slipstream.bench.gpu.dense_forms import FOUR_BITS, KINDS, Chain, multiply, name, random, variants, ways
from slipstream.bench.gpu.gemm_sweep import COLD, MOST_COPIES
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.shapes import Layer, layers, often
from slipstream.ops.triton import fp8, plain, whole

QUESTION = "Up to how many rows is the own product of bf16 or e4m3 weights the fastest, alone and between the kernels of a step?"
ORDER, SECONDS = 71, 60
MODELS = ("llama-3.1-8b", "llama-3.2-1b")
COUNTS, DRY_COUNTS = (1, 8, 16, 32, 64), (1,)
CHAINED, DRY_CHAINED = (1, 8, 16), (2,)
SECONDS_EACH = 0.005  # of measuring per way and point
DEEP = 600e6  # bytes of weights in a chain: more than caches hold
CHECKED = 16  # rows compared with fp64


def measure(bench: Bench) -> None:
    shapes, kinds = layers(bench.dry, MODELS), bench.pick(tuple(KINDS), ("bf16",))
    if not bench.dry:
        compile_ahead(bench, variants(shapes))
    limits = bench.limits()
    models = dict.fromkeys(layer.model for layer in shapes)
    chains = [(kind, model, m) for m in bench.pick(CHAINED, DRY_CHAINED) for kind in kinds for model in models]
    products = [(kind, layer, m) for m in bench.pick(COUNTS, DRY_COUNTS) for kind in kinds if kind not in FOUR_BITS for layer in shapes]
    bench.each(chains, lambda point: "{} {} chain m={}".format(*point), lambda point: chain(bench, limits, shapes, *point))
    bench.each(products, lambda point: "{} {} m={}".format(*point), lambda point: alone(bench, limits, *point))


def chain(bench: Bench, limits: Limits, shapes: list[Layer], kind: str, model: str, m: int) -> None:
    """One row per way: time of the chain per layer, and the share of it that reading the weights takes."""
    named = {layer.name: layer for layer in shapes if layer.model == model}
    weights = sum(layer.n * layer.k for key, layer in named.items() if key != "head")
    size = int(weights * KINDS[kind][1] / 8)
    count = bench.pick(max(2, int(-(-DEEP // size))), 1)
    made = Chain.of(kind, named, count, m, bench.device)
    found = bench.clock.compare({name(way): [partial(made.run, way)] for way in ways(kind, m, bench.dry)}, seconds=4 * SECONDS_EACH)
    _rows(bench, found, limits.seconds(size, 2.0 * m * weights), count, {"weights": kind, "model": model, "layer": "chain", "m": m}, {})


def alone(bench: Bench, limits: Limits, kind: str, layer: Layer, m: int) -> None:
    """One row per way: time, share of the roof, and the distance from fp64."""
    size = layer.n * layer.k * KINDS[kind][1] // 8
    copies = bench.pick(min(MOST_COPIES, max(1, -(-COLD // size))), 1)
    made = [random(kind, layer, bench.device) for _ in range(copies)]
    x, out = torch.randn(m, layer.k, device=bench.device).bfloat16(), torch.empty(m, layer.n, device=bench.device)
    calls = {name(way): [partial(multiply, way, x, one, out) for one in made] for way in ways(kind, m, bench.dry)}
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    meant = made[0].weight if kind == "bf16" else made[0].codes.float() * made[0].scale
    errors = {key: error(x, meant, calls[key][0]()) for key, timing in found.items() if not isinstance(timing, Exception)}
    least = limits.seconds(size + 2 * m * layer.k + 4 * m * layer.n, 2.0 * m * layer.n * layer.k)
    _rows(bench, found, least, 1, {"weights": kind, "model": layer.model, "layer": layer.name, "m": m}, errors)


def _rows(bench: Bench, found: dict, least: float, count: int, point: dict, errors: dict[str, float]) -> None:
    base = found.get(KINDS[point["weights"]][2])
    for key, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{point} {key}", timing)
            continue
        bench.row(
            **point, form=key, us=timing.median * 1e6 / count, spread=timing.spread, roof=least * count / timing.median,
            times_other=None if base is None or isinstance(base, Exception) else base.median / timing.median,
            error=errors.get(key), timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def error(x: Tensor, weight: Tensor, out: Tensor) -> float:
    """Relative distance of the first rows from the product in fp64."""
    wanted = torch.cat([x[:CHECKED].double() @ part.double().t() for part in weight.split(16384)], 1)
    return float((out[:CHECKED].double() - wanted).norm() / wanted.norm())


def answer(rows: list[dict]) -> list[str]:
    """What is far from fp64 first, further than activations rounded to e4m3 with weights in it; then per point the ways by time."""
    wrong = [row for row in rows if not right(row)]
    out = [f"WRONG: {r['weights']} {r['form']} {r['model']} {r['layer']} m={r['m']}: error {r['error']:.1e}" for r in wrong]
    for point in dict.fromkeys((row["weights"], row["model"], row["layer"], row["m"]) for row in rows):
        here = sorted((r for r in rows if (r["weights"], r["model"], r["layer"], r["m"]) == point), key=lambda row: row["us"])
        shown = ", ".join(f"{row['form']} {row['us']:.1f} ({row['roof']:.0%})" for row in here)
        out.append("{} {} {} m={}, us and share of the roof: ".format(*point) + shown)
    return out


def right(row: dict) -> bool:
    """Whether what it is away from fp64 is rounding; chains are not compared."""
    return (row["error"] or 0) <= (5e-2 if row["weights"] == "fp8" else 1e-5)


def samples(rows: list[dict]) -> list[Sample]:
    """For the tables of ops/triton/plain.py by the layers alone, since a chain has layers of all sizes; for those of fp8.py and whole.py
    in the chain too."""
    out = []
    for row in rows:
        kind, model, layer = row["weights"], row["model"], row["layer"]
        ways = {name(form): form for form in KINDS[kind][0]} | {KINDS[kind][2]: TABLE if kind in FOUR_BITS else KINDS[kind][2]}
        in_step = layer == "chain"
        if row["form"] not in ways or in_step and kind == "bf16":
            continue
        named = {one.name: one for one in layers(False, (model,))}
        n, k = (named[layer].n, named[layer].k) if layer in named else (128, 128)
        four = kind in FOUR_BITS and whole.of_fast(FOUR_BITS[kind].form(n, k))
        table = four or (fp8.CODES if kind == "fp8" else plain.by_size(n * k))
        facts = {"times": 1 if in_step else often(model, layer), "right": right(row), "in_step": in_step}
        out.append(Sample(table.name, row["m"], ways[row["form"]], row["us"], f"{kind} {model}", layer, **facts))
    return out
