"""Whole-number products alone: every form on a few layers, beside cuBLAS and tinygemm, each compared with fp64.

Small enough to be run after every change of a kernel. What is launched is compiled before, by all cores, into Triton's cache.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from slipstream.bench.gpu import designs
from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.deciding import Sample
from slipstream.bench.gpu.gemm_sweep import COLD, MOST_COPIES
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.packed_forms import CANDIDATES, DRY_CANDIDATES, Candidate, Kind, multiply, stored
from slipstream.bench.gpu.shapes import Layer, layers, often
from slipstream.ops.triton import whole
from slipstream.ops.triton.carried import Carried
from slipstream.ops.triton.packing import Packed, pack
from slipstream.ops.types import Declined

QUESTION = "Which form of the whole-number product is right, and fastest, at which number of rows?"
ORDER, SECONDS = 72, 60
COUNTS, DRY_COUNTS = (64, 16, 2048, 32, 128, 8, 1, 256), (1,)
LAYERS = ("gate_up", "o", "down", "qkv", "head")
SECONDS_EACH = 0.005  # of measuring per candidate and point
LAUNCH = 2.5e-6  # seconds that any kernel takes; the goal is 1.15 times this and the bytes
CHECKED = 64  # rows compared with fp64
Call = Callable[[], object]


def measure(bench: Bench) -> None:
    candidates = list(bench.pick(CANDIDATES, DRY_CANDIDATES))
    chosen = [layer for layer in layers(bench.dry) if layer.model != "llama-3.1-70b" or layer.name == "gate_up"]
    chosen.sort(key=lambda layer: (layer.model == "llama-3.1-70b", LAYERS.index(layer.name)))  # what says most first, should time run out
    counts = bench.pick(COUNTS, DRY_COUNTS)
    if not bench.dry:
        forms = ((one, one.kind.form(layer.n, layer.k), m) for one in candidates for layer in chosen for m in counts)
        compile_ahead(bench, (kernel for one, form, m in forms if one.least <= m <= one.most for kernel in one.variants(form, m)))
    limits = bench.limits()
    prepared = lru_cache(maxsize=1)(lambda layer: Prepared(bench, layer, candidates))
    points = [(layer, m) for layer in chosen for m in counts]
    bench.each(points, lambda point: f"{point[0]} m={point[1]}", lambda point: compare(bench, limits, prepared(point[0]), point[1]))


class Prepared:
    """A layer in every kind of weights, in as many copies as keep the L2 cache cold."""

    def __init__(self, bench: Bench, layer: Layer, candidates: list[Candidate]):
        self.layer, self.candidates = layer, candidates
        if bench.device == "cuda":
            torch.cuda.empty_cache()
        self.weight = (torch.randn(layer.n, layer.k, device=bench.device) / layer.k**0.5).bfloat16()
        self.packed: dict[Kind, list[Packed]] = {}
        self.meant: dict[Kind, Tensor] = {}
        for kind in dict.fromkeys(candidate.kind for candidate in candidates):
            parts, self.meant[kind] = stored(kind, self.weight)
            self.packed[kind] = [pack(parts) for _ in range(self._copies(bench, kind.bits))]
        self.others: dict[str, list[designs.Product]] = {}
        for design in designs.named("cublas", "tinygemm"):
            made = [design.make(self.weight.clone()) for _ in range(self._copies(bench, design.bits))]
            if isinstance(made[0], Declined):
                bench.unavailable(design.name, made[0].reason)
            else:
                self.others[design.name] = made

    def _copies(self, bench: Bench, bits: float) -> int:
        size = int(self.layer.n * self.layer.k * bits / 8)
        return bench.pick(min(MOST_COPIES, max(1, -(-COLD // size))), 1)

    def calls(self, x: Tensor) -> dict[str, list[Call]]:
        """Name -> its calls on x."""
        out = {name: [partial(product, x) for product in products] for name, products in self.others.items()}
        for one in self.candidates:
            if one.least <= len(x) <= one.most:
                out[one.name] = [partial(multiply, one, x, layer) for layer in self.packed[one.kind]]
        return out


def compare(bench: Bench, limits: Limits, prepared: Prepared, m: int) -> None:
    """One row per form: time, the goal beside it, and the distance from fp64."""
    layer = prepared.layer
    x = torch.randn(m, layer.k, device=bench.device).bfloat16()
    calls = prepared.calls(x)
    if m > 16:
        calls.pop("tinygemm", None)
    found = bench.clock.compare(calls, seconds=SECONDS_EACH)
    kinds = {one.name: one.kind for one in prepared.candidates}
    base = found.get("cublas")
    for name, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{layer} m={m} {name}", timing)
            continue
        kind = kinds.get(name)
        bits = kind.bits if kind else designs.named(name)[0].bits
        size = layer.n * layer.k * bits / 8 + 2 * m * layer.k + 4 * m * layer.n
        least = limits.seconds(size, 2.0 * m * layer.n * layer.k)
        bench.row(
            model=layer.model, layer=layer.name, n=layer.n, k=layer.k, m=m, form=name, us=timing.median * 1e6, spread=timing.spread,
            goal_us=1.15 * (LAUNCH + least) * 1e6, roof=least / timing.median,
            times_cublas=None if base is None or isinstance(base, Exception) else base.median / timing.median,
            error=error(x, prepared.meant[kind], calls[name][0]) if kind else None, timed=timing.way, raw=timing.samples,
        )  # fmt: skip


def error(x: Tensor, meant: Tensor, call: Call) -> float:
    """Relative distance of the first rows from the fp64 product of the weights that are meant."""
    out = call()[:CHECKED].double()
    wanted = torch.cat([x[:CHECKED].double() @ part.double().t() for part in meant.split(16384)], 1)
    return float((out - wanted).norm() / wanted.norm())


def answer(rows: list[dict]) -> list[str]:
    """Per layer and number of rows the forms by time; what is far from fp64 first."""
    out = [f"WRONG: {r['form']} {r['layer']} m={r['m']}: error {r['error']:.1e}" for r in rows if (r["error"] or 0.0) > bound(r)]
    for point in dict.fromkeys((row["model"], row["layer"], row["m"]) for row in rows):
        here = sorted((row for row in rows if (row["model"], row["layer"], row["m"]) == point), key=lambda row: row["us"])
        shown = ", ".join(f"{row['form']} {row['us']:.1f} ({row['us'] / row['goal_us']:.2f} of goal)" for row in here)
        out.append(f"{point[0]} {point[1]} m={point[2]}, us: {shown}")
    return out


def bound(row: dict) -> float:
    """Greatest error that is rounding: of activations to e4m3 or of weights to bf16 where that is done, else of fp32 sums."""
    if row["form"].endswith("_codes"):
        return 5e-2
    return 5e-3 if "_unpacked" in row["form"] or "_folded" in row["form"] else 2e-5


def samples(rows: list[dict]) -> list[Sample]:
    """For the tables of ops/triton/whole.py. Carried forms win or lose in the chain (dense_forms): only there they read while another
    kernel ends."""
    known = {one.name: one for one in (*CANDIDATES, *DRY_CANDIDATES) if one.way}
    out = []
    for row in rows:
        if row["form"] in known:
            kind, way = known[row["form"]].kind, known[row["form"]].way
            out.append(
                Sample(
                    whole.of_fast(kind.form(row["n"], row["k"])).name, row["m"], way, row["us"], f"{row['model']} {kind}", row["layer"],
                    times=often(row["model"], row["layer"]), right=row["error"] <= bound(row), decides=not isinstance(way, Carried),
                )
            )  # fmt: skip
    return out
