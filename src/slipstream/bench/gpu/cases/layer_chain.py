"""Whole layers of an 8B model, one after the other as in a step, with and without each fusion of ops/triton/fused.py.

What is timed is the decoder's own forward pass over so many layers that their weights are in no cache: embedding, layers with attention
over short contexts, the last addition. Each way runs with a table of its own, whatever the engine's says. Beside the time the distance
from the same layers in fp64, on rows that see one key only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.arch.shapes import shape
from slipstream.arch.spec import ModelSpec
from slipstream.base import registry
from slipstream.bench.gpu.ahead import compile_ahead
from slipstream.bench.gpu.bench import Bench
from slipstream.bench.gpu.cases.decode_step import Step, build
from slipstream.bench.gpu.deciding import Sample
from slipstream.bench.gpu.limits import Limits
from slipstream.bench.gpu.scenes import triton_kernels
from slipstream.model.decoder import Decoder
from slipstream.ops import triton as candidate
from slipstream.ops.triton import compile, fused
from slipstream.ops.triton.launch import Variant
from slipstream.ops.types import Declined
from slipstream.weights.dummy import Dummy

QUESTION = "What does each fusion of a layer's kernels bring in the chain of a step, up to how many rows, and is it as near to fp64?"
ORDER, SECONDS = 70, 60
MODEL, DRY_MODEL = "llama-3.1-8b", "tiny"
FORMATS = {"bf16": 16, "int4": 4.5, "fp8": 8}  # bits of a weight
ROWS, DRY_ROWS = (1, 8, 16, 64), (2,)
WAYS = {"apart": (), "gate": ("gate",), "norm": ("norm",), "both": ("gate", "norm")}  # name -> the fusions in it
WITHOUT_NORM = ("fp8",)  # formats whose linear layers never have a half of a norm
CONTEXT, DRY_CONTEXT = 512, 8
DEEP = 600e6  # bytes of weights in a chain: more than caches hold
WORSE = 1.2  # times as far from fp64 as without fusions, at most
SECONDS_EACH = 0.04  # of measuring


def measure(bench: Bench) -> None:
    formats, most = bench.pick(tuple(FORMATS), ("bf16",)), max(bench.pick(ROWS, DRY_ROWS))
    if not bench.dry:
        compile_ahead(bench, launched())
    limits = bench.limits()
    for format in formats:
        spec = replace(shape(bench.pick(MODEL, DRY_MODEL)), vocab=1024)
        weights = sum(n * k for n, k in compile.layers(spec).values()) - spec.vocab * spec.hidden
        size = weights * FORMATS[format] / 8
        count = bench.pick(max(2, int(-(-DEEP // size))), 1)
        spec, made = replace(spec, layers=spec.layers[:count]), {}

        def one(rows: int, format: str = format, spec: ModelSpec = spec, made: dict = made, size: float = size * count) -> None:
            if not made:
                made.update({gates: decoder(bench, spec, format, gates, most) for gates in (False, True)})
            chains(bench, limits, format, made, rows, size)

        bench.each(bench.pick(ROWS, DRY_ROWS), lambda rows, format=format: f"{format} rows {rows}", one)
        made.clear()


def launched() -> Iterator[Variant]:
    """What layers of MODEL launch, and more."""
    for kernel, form, variant in (*compile.forms([MODEL]), *compile.products([MODEL], ["int4"]), *compile.ends([MODEL], ["int4"])):
        if not kernel.startswith("sample") and "kv fp" not in form:
            yield variant


def ways(format: str, rows: int) -> list[str]:
    """The ways that differ for so many rows."""
    return [way for way, fusions in WAYS.items() if "norm" not in fusions or format not in WITHOUT_NORM and rows <= fused.MOST["norm"]]


def chains(bench: Bench, limits: Limits, format: str, made: dict[bool, Decoder], rows: int, size: float) -> None:
    """One row per way: time of a layer, share of it that reading the weights takes, distance from fp64. `made`: with pairs, and without."""
    models = {way: made["gate" in WAYS[way]] for way in ways(format, rows)}
    steps = {way: build(bench, model, None, rows, bench.pick(CONTEXT, DRY_CONTEXT)) for way, model in models.items()}
    found = bench.clock.compare({way: [partial(run, way, step)] for way, step in steps.items()}, seconds=SECONDS_EACH)
    apart, wanted = found["apart"], exact(bench, models["apart"], format, rows)
    for way, timing in found.items():
        if isinstance(timing, Exception):
            bench.failure(f"{format} rows {rows} {way}", timing)
            continue
        layers = len(models[way].spec.layers)
        bench.row(
            weights=format, m=rows, way=way, us=timing.median * 1e6 / layers, spread=timing.spread,
            times_apart=None if isinstance(apart, Exception) else apart.median / timing.median,
            roof=size / limits.bandwidth / timing.median, error=error(bench, models[way], way, wanted),
            timed=timing.way, raw=timing.samples,
        )  # fmt: skip


@contextmanager
def fusing(way: str) -> Iterator[None]:
    """With the fusions of `way` and no others, for all formats and numbers of rows for which there are kernels."""
    table = {name: dict.fromkeys(FORMATS, 1 << 31) if name in WAYS[way] else {} for name in fused.up_to()}
    with mock.patch.dict(fused.up_to(), table):
        yield


def run(way: str, step: Step) -> Tensor:
    """The residual stream behind the last layer. [rows, hidden]"""
    with fusing(way):
        return step.forward()


def decoder(bench: Bench, spec: ModelSpec, format: str, gates: bool, rows: int) -> Decoder:
    """A decoder on the Triton kernels, whatever device there is; `gates`: with gate and up in pairs. What is timed is recorded by the
    clock, so there is no tape."""
    kernels = triton_kernels()
    kernels.device, kernels.pads, kernels.tape, kernels.recorded = bench.device, False, lambda: None, lambda op: False
    with fusing("gate" if gates else "apart"):
        offers = {name: candidate.offer(f"gate_up_{name}", "cuda") for name in FORMATS}
        kernels.gate_up = {name: offer for name, offer in offers.items() if not isinstance(offer, Declined)}.get
        return Decoder(spec, Dummy(spec, device=bench.device), kernels, rows, 1, format=format, max_len=bench.pick(CONTEXT, DRY_CONTEXT))


def seeing_themselves(bench: Bench, model: Decoder, rows: int) -> Step:
    """Rows that see one key, so that their values are what attention gives; the same tokens for every way."""
    torch.manual_seed(rows)
    return build(bench, model, None, rows, 1)


def error(bench: Bench, model: Decoder, way: str, wanted: Tensor) -> float:
    """Relative distance of such rows from `wanted`."""
    found = run(way, seeing_themselves(bench, model, len(wanted))).double()
    return float((found - wanted).norm() / wanted.norm())


def exact(bench: Bench, model: Decoder, format: str, rows: int) -> Tensor:
    """The residual stream of such rows in fp64. [rows, hidden]"""
    spec, weights = model.spec, Dummy(model.spec, device=bench.device)

    def layer(name: str, x: Tensor) -> Tensor:
        return x @ meant(format, weights.get(f"{name}.weight")).T

    def normed(name: str) -> Tensor:
        return stream / torch.sqrt((stream * stream).mean(1, keepdim=True) + spec.norm_eps) * weights.get(f"{name}.weight").double()

    stream = weights.get("embed.weight")[seeing_themselves(bench, model, rows).batch.ids.long()].double()
    for number, each in enumerate(spec.layers):
        name, group = f"layers.{number}", each.mixer.heads // each.mixer.kv_heads
        value = layer(f"{name}.mixer.v", normed(f"{name}.mixer.norm")).unflatten(1, (each.mixer.kv_heads, -1))
        stream = stream + layer(f"{name}.mixer.o", value.repeat_interleave(group, 1).flatten(1))
        x = normed(f"{name}.ffn.norm")
        stream = stream + layer(f"{name}.ffn.down", F.silu(layer(f"{name}.ffn.gate", x)) * layer(f"{name}.ffn.up", x))
    return stream


def meant(format: str, weight: Tensor) -> Tensor:
    """What a weight means once it is stored so, fp64."""
    module = registry.load("slipstream.quant.formats", format)
    stored = module.quantise(weight)
    if format == "fp8":
        return stored["weight"].double() * stored["scale"].double()[:, None]
    return module.unpack(stored).double()


def answer(rows: list[dict]) -> list[str]:
    """Ways further from fp64 than without fusions first; then per point the ways by time."""
    out = []
    for point in dict.fromkeys((row["weights"], row["m"]) for row in rows):
        here = sorted((row for row in rows if (row["weights"], row["m"]) == point), key=lambda row: row["us"])
        apart = next((row["error"] for row in here if row["way"] == "apart"), 0.0)
        out += [f"WRONG: {point} {r['way']}: {r['error']:.1e} from fp64, {apart:.1e} without" for r in here if r["error"] > WORSE * apart]
        shown = ", ".join(f"{row['way']} {row['us']:.1f} ({row['roof']:.0%})" for row in here)
        out.append("{} rows {}, us a layer and share of streaming: ".format(*point) + shown)
    return sorted(out, key=lambda line: not line.startswith("WRONG"))


def samples(rows: list[dict]) -> list[Sample]:
    """For the tables of ops/triton/fused.py: what a fusion takes at best with it, and at best without."""
    out = []
    for format, m in dict.fromkeys((row["weights"], row["m"]) for row in rows):
        here = [row for row in rows if (row["weights"], row["m"]) == (format, m)]
        apart = next((row["error"] for row in here if row["way"] == "apart"), 0.0)
        right = [row for row in here if row["error"] <= WORSE * apart]
        for fusion in fused.up_to():
            for done in (True, False):
                times = [row["us"] for row in right if (fusion in WAYS[row["way"]]) == done]
                out += [Sample(fusion, m, done, min(times), MODEL, column=format, in_step=True)] if times else []
    return out
