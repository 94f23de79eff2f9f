"""Fused: which linear layers do what stands beside them too (ends.py), so that it needs no kernel of its own, and for how many rows.

Owns what a launch is told of its end; who does it for how many rows is data (tuned/). Must not know a kernel.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.triton.tuned import ByName
from slipstream.ops.types import LINEAR_FORMATS, Norming

GATE, NORM = (ByName(fusion, tuple(LINEAR_FORMATS), int) for fusion in ("gate", "norm"))  # format -> rows up to which it pays
MOST = {"gate": 64, "norm": 16}  # rows: with more, what a product does besides does not fit into the registers beside its sums
NEVER = {  # formats whose gates are kernels of their own
    "fp32": "cuBLAS multiplies them, which gates nothing",
    "fp8_block": "128 outputs that share a scale must stay neighbours",
}
OPERANDS = ("*fp32", "*fp32", "*bf16", "i32", "fp32", "fp32")  # types of what `End.operands` gives


@dataclass(frozen=True, slots=True)
class Ending:
    """How an end is compiled.

    Attributes:
        gate, norm: see ends.store.
        out: type of the results, "*fp32" or "*bf16".
    """

    gate: str = ""
    norm: str = ""
    out: str = "*fp32"

    @property
    def constants(self) -> dict[str, Any]:
        return {"gate": self.gate, "norm": self.norm}


AS_IT_IS = Ending()


@dataclass(frozen=True, slots=True)
class End:
    """What one call of a product does besides.

    Attributes:
        gate: the activation of a layer in pairs, "" of others.
        norm: "ends" where x is the `scaled` of `norming`, "begins" where out is its `stream`; "" without.
    """

    gate: str = ""
    norm: str = ""
    norming: Norming | None = None

    def ending(self, out: Tensor) -> Ending:
        """How it is compiled for results `out`."""
        return Ending(self.gate, self.norm, "*bf16" if out.dtype is torch.bfloat16 else "*fp32")

    def operands(self, inputs: int, parts: int, device: torch.device) -> tuple[Tensor | float | int, ...]:
        """What a kernel takes behind its own: squares, weight, scaled; how many have squares, 1 / inputs, eps (ends.norm_factor).

        Args:
            parts: programs that share a row of the result, each of which has squares.
        """
        norming = self.norming
        if norming is None:
            return *_unread(device), 0, 0.0, 0.0
        if self.norm == "begins":
            norming.parts = parts
        return norming.squares, norming.weight, norming.scaled, norming.parts, 1 / inputs, norming.eps


PLAIN = End()


def ended(x: Tensor | Norming, out: Tensor | Norming, gate: str = "") -> tuple[Tensor, Tensor, End]:
    """x, out and the end of a product, of what a linear layer is called with.

    Raises:
        InputError: a norm on both sides: one kernel has one half of one.
    """
    if isinstance(x, Norming):
        if isinstance(out, Norming):
            raise InputError("product: x and out are both Normings; one of them must be rows")
        return x.scaled, out, End(gate, "ends", x)
    return (x, out.stream, End(gate, "begins", out)) if isinstance(out, Norming) else (x, out, End(gate))


@cache
def up_to() -> dict[str, dict[str, int]]:
    """Fusion -> format -> rows up to which it pays."""
    return {table.name: table.now for table in (GATE, NORM)}


def serves(fusion: str, format: str, rows: int) -> bool:
    """Whether the table has it for so many rows."""
    return rows <= min(MOST[fusion], up_to()[fusion].get(format, 0))


@cache
def _unread(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What stands for squares, weight and scaled where there is no norm."""
    numbers = torch.empty(0, device=device)
    return numbers, numbers, torch.empty(0, dtype=torch.bfloat16, device=device)
