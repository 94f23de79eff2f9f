"""Linear layers by themselves: each weight format over numbers of rows, beside bandwidth and peak probed between the turns.

Owns the sizes and the order of turns. What a layer moves and computes is the business of cost/, what the machine can do of ops/probe.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

from slipstream.base.registry import load, unknown
from slipstream.cost.step import LINEAR_ARITHMETIC, WEIGHT_FORMATS
from slipstream.model.linear import FORMATS
from slipstream.ops import Kernels, probe
from slipstream.ops.types import COARSER, FLOATS, LinearKernel
from slipstream.quant import computed

APART = 256 * 2**20  # bytes of weights that a turn walks through, so that none of them waits in a cache
PROBE = 0.06  # seconds of each probe
FEW = 16  # rows from which on reading is no longer what counts: then two copies of the weight are enough


@dataclass(frozen=True)
class Ask:
    """What to measure: formats of `quant.computed()`, each with those of the scales of activations that it has kernels for (fp32 and
    bf16 round none: once); rows, outputs n and inputs k of the layer, repetitions, threads."""

    formats: tuple[str, ...]
    activations: tuple[str, ...] = ("32",)
    rows: tuple[int, ...] = (1, 2, 4, 5, 8, 16, 32, 128, 512)
    n: int = 8192
    k: int = 2048
    repeat: int = 5
    threads: int = 1


class Shares:
    """What was measured as rates and shares of the machine; for dataclasses with the fields that Layer has from `bytes` on."""

    bytes: int
    operations: int
    seconds: list[float]
    bandwidth: list[float]
    peak: list[float]

    @property
    def rate(self) -> float:
        """Gop/s, median."""
        return self.operations / median(self.seconds) / 1e9

    @property
    def speed(self) -> float:
        """GB/s, median."""
        return self.bytes / median(self.seconds) / 1e9

    @property
    def of_peak(self) -> float:
        """Median over the repetitions of the share of the peak probed beside each."""
        return median(self.operations / 1e9 / seconds / peak for seconds, peak in zip(self.seconds, self.peak, strict=True))

    @property
    def of_bandwidth(self) -> float:
        """The same of the bandwidth."""
        return median(self.bytes / 1e9 / seconds / read for seconds, read in zip(self.seconds, self.bandwidth, strict=True))

    def cells(self) -> tuple[str, str, str, str]:
        """For printing: Gop/s, share of the peak, GB/s, share of the bandwidth."""
        return f"{self.rate:,.0f}", f"{self.of_peak:.0%}", f"{self.speed:,.1f}", f"{self.of_bandwidth:.0%}"


@dataclass
class Layer(Shares):
    """One format at one number of rows.

    Attributes:
        activations: values of a row that share an int8 scale.
        seconds: of a call, one per repetition.
        bandwidth, peak: GB/s and Gop/s probed beside each.
    """

    format: str
    activations: str
    rows: int
    bytes: int
    operations: int
    seconds: list[float] = field(default_factory=list)
    bandwidth: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)


def run(ask: Ask, say: Callable[[str], None] = lambda line: None) -> list[Layer]:
    """Measures. Activations are quantised within the call, where the format asks for it.

    Raises:
        InputError: a format or scale is unknown, or a format does not hold a layer of this size.
    """
    for format in ask.formats:
        if format not in computed():
            raise unknown("format", format, computed())
    kernels = {activations: Kernels(activations=activations) for activations in ask.activations}
    inputs = {rows: (torch.randn(rows, ask.k), torch.empty(rows, ask.n)) for rows in ask.rows}
    ways = [(format, activations) for format in ask.formats for activations in ask.activations if _has(format, activations, ask)]
    layers = [Layer(*way, rows, _bytes(way[0], ask), 2 * rows * ask.n * ask.k) for way in ways for rows in ask.rows]
    weights = {format: _weights(format, ask, kernels[activations]) for format, activations in ways}  # packed alike for all scales
    for repetition in range(ask.repeat + 1):  # the first one warms up
        for layer in layers:
            x, out = inputs[layer.rows]
            seconds = _seconds(kernels[layer.activations].linear(layer.format), layer, weights[layer.format], x, out)
            if repetition:
                layer.seconds.append(seconds)
                layer.bandwidth.append(probe.read_bandwidth(APART, ask.threads, PROBE))
                layer.peak.append(probe.peak(LINEAR_ARITHMETIC["cpu"][layer.format], ask.threads, PROBE))
        say(f"repetition {repetition} of {ask.repeat} done" if repetition else "warm")
    return layers


def _has(format: str, activations: str, ask: Ask) -> bool:
    if format in FLOATS:
        return activations == ask.activations[0]
    return activations == "32" or activations in COARSER.get(format, ())


def _weights(format: str, ask: Ask, kernels: Kernels) -> list[Any]:
    """As many packed copies as it takes to fill APART."""
    scheme, kernel = load(FORMATS, format), kernels.linear(load(FORMATS, format).OP)
    weight: Tensor = torch.randn(ask.n, ask.k, generator=torch.Generator().manual_seed(1)) / ask.k**0.5
    stored = scheme.quantise(weight)
    return [kernel.prepare(stored) for _ in range(max(2, -(-APART // _bytes(format, ask))))]


def _bytes(format: str, ask: Ask) -> int:
    bits, per_row = WEIGHT_FORMATS[format]
    return int(ask.n * ask.k * bits / 8) + ask.n * per_row


def _seconds(kernel: LinearKernel, layer: Layer, weights: list[Any], x: Tensor, out: Tensor) -> float:
    used = weights if layer.rows <= FEW else weights[:2]
    began = time.perf_counter()
    for prepared in used:
        kernel.run(x, prepared, None, out)
    return (time.perf_counter() - began) / len(used)
