"""Mixtures of experts: all experts of a layer at once, beside reading the chosen ones once."""

from functools import partial

import torch

from slipstream.base import registry
from slipstream.bench.gpu import scenes
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.deciding import TABLE, Sample
from slipstream.ops.triton import mixture
from slipstream.ops.types import Activation

QUESTION = "How near is a layer of experts to reading the chosen ones once, and what does one order for all numbers of rows cost?"
ORDER, SECONDS = 85, 30
SHAPES = {  # hidden, inner size, experts, experts of a row
    "qwen3-30b-a3b": (2048, 768, 128, 8),
    "mixtral-8x7b": (4096, 14336, 8, 2),
    "gpt-oss-20b": (2880, 2880, 32, 4),
}
DRY_SHAPES = {"tiny-moe": (64, 96, 6, 2)}
COPIES = 8
ROWS, DRY_ROWS = (1, 8, 64, 256, 2048), (3,)


def measure(bench: Bench) -> None:
    limits = bench.limits()
    fast = scenes.triton_kernels()
    kernels = {"fast": fast.experts("bf16"), "deterministic": scenes.triton_kernels(True).experts("bf16"), "fast fp8": fast.experts("fp8")}
    shapes = bench.pick(SHAPES, DRY_SHAPES)

    def one(point: tuple[str, int]) -> None:
        name, rows = point
        hidden, width, count, chosen = shapes[name]
        parts = ((2 * width, hidden), (hidden, width))
        stored = [{"weight": (torch.randn(count, *shape, device=bench.device) / 50).bfloat16()} for shape in parts]
        x, out = torch.randn(rows, hidden, device=bench.device), torch.empty(rows, hidden, device=bench.device)
        routes = [  # others every time, so that what was read is not in L2 still
            torch.rand(rows, count, device=bench.device).topk(chosen).indices.sort().values.int().contiguous() for _ in range(COPIES)
        ]
        shares = torch.full((rows, chosen), 1 / chosen, device=bench.device)
        prepared = {"bf16": kernels["fast"].prepare(*stored), "fp8": kernels["fast fp8"].prepare(*map(_rounded, stored))}
        silu = Activation("silu")
        calls = {
            settings: [partial(kernel.run, x, experts, shares, prepared[kernel.format], silu, out) for experts in routes]
            for settings, kernel in kernels.items()
        }
        used = sum(len(experts.unique()) for experts in routes) / COPIES
        numbers, operations = used * 3 * hidden * width, rows * chosen * 6 * hidden * width
        for settings, timing in bench.clock.compare(calls, seconds=0.02).items():
            if isinstance(timing, Exception):
                bench.failure(f"{name} rows {rows} {settings}", timing)
                continue
            size = numbers * (1 if kernels[settings].format == "fp8" else 2)
            least = limits.seconds(size, operations)
            bench.row(
                model=name, rows=rows, settings=settings, used=used, us=timing.median * 1e6, spread=timing.spread, roof_us=least * 1e6,
                roof=least / timing.median, binds=limits.binds(size, operations), timed=timing.way, raw=timing.samples,
            )  # fmt: skip

    points = [(name, rows) for rows in bench.pick(ROWS, DRY_ROWS) for name in shapes]
    bench.each(points, lambda point: f"{point[0]} rows {point[1]}", one)


def _rounded(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same experts in fp8."""
    weight = stored["weight"]
    parts = registry.load("slipstream.quant.formats", "fp8").quantise(weight.flatten(0, 1).float())
    return {name: part.unflatten(0, (len(weight), -1)) for name, part in parts.items()}


def answer(rows: list[dict]) -> list[str]:
    return [
        f"{row['model']}, {row['rows']} rows, {row['settings']}: {row['us']:.1f} us for {row['used']:.0f} experts ({row['roof']:.0%})"
        for row in rows
    ]


def samples(rows: list[dict]) -> list[Sample]:
    """For FAST of ops/triton/mixture.py: its tile where an expert has so many rows, and the tile of deterministic settings."""
    ways, out = {"fast": TABLE, "deterministic": mixture.MANY}, []
    for row in rows:
        *_, count, chosen = (SHAPES | DRY_SHAPES)[row["model"]]
        if row["settings"] in ways:
            of_expert = -(-row["rows"] * chosen // count)
            out.append(Sample("experts", of_expert, ways[row["settings"]], row["us"], row["point"]))
    return out
