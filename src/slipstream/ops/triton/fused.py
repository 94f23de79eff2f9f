"""Fused: linear layers that do what stands beside them too, so that it needs no kernel of its own.

Owns the table of who does so for how many rows, and the op "gate_up_<format>": gate and up as one layer in pairs (pairs.py), gated by the
product that made them where rows are few, by a kernel behind it where they are many. Either way numbers are gated as they were summed, in
fp32, and are the same bits: deterministic settings may have it too. Must not know how a product sums.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from slipstream.ops.triton import gated, linear
from slipstream.ops.triton.pairs import SIDE, paired
from slipstream.ops.types import Declined

# fusion -> format -> rows up to which it pays. Nothing stands here that was not measured: `bench gpu-suite --only layer_chain` says what
# to write down (docs/gpu.md).
UP_TO: dict[str, dict[str, int]] = {"gate": {}}
NEVER = {"fp32": "cuBLAS multiplies them, which gates nothing", "fp8_block": "128 outputs that share a scale must stay neighbours"}


@dataclass(frozen=True, slots=True)
class GateUp:
    """The kernel of "gate_up_<format>", see GateUpKernel.

    Attributes:
        linear: what multiplies.
    """

    linear: linear.PlainLinear | linear.PackedLinear | linear.NarrowLinear
    unit = SIDE

    def deterministic(self) -> "GateUp":
        """The same, giving a row the same bits for every number of rows."""
        return replace(self, linear=self.linear.deterministic())

    @property
    def name(self) -> str:
        return f"triton_gate_up_{self.linear.format}"

    @property
    def reads(self) -> Any:
        return self.linear.reads

    def prepare(self, stored: Mapping[str, Tensor], bias: Tensor | None) -> tuple[Any, Tensor | None]:
        """Packs the layer with its outputs in pairs."""
        return self.linear.prepare(paired(stored)), None if bias is None else paired({"bias": bias})["bias"]

    def run(self, x: Tensor, prepared: tuple[Any, Tensor | None], activation: str, products: Tensor, out: Tensor) -> None:
        """See GateUpKernel."""
        layer, bias = prepared
        if len(x) <= UP_TO["gate"].get(self.linear.format, 0) and self.linear.gates(len(x), layer):
            self.linear.gated(x, layer, bias, activation, out)
        else:
            self.linear.run(x, layer, bias, products)
            gated.gated_pairs(products, out, activation)


def gate_up(op: str) -> GateUp | Declined:
    """What serves "gate_up_<format>"."""
    format = op.removeprefix("gate_up_")
    if format in NEVER:
        return Declined(f"no gates within products of {format}: {NEVER[format]}")
    if format not in UP_TO["gate"]:
        return Declined(f"nobody has measured gates within products of {format}; they are kernels of their own")
    return GateUp(linear.KERNELS[f"linear_{format}"])
