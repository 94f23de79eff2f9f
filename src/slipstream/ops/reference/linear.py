"""Linear layers of each weight format."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.ops.reference.arithmetic import fma, one_thread
from slipstream.ops.types import INT8_BLOCK, check_stored

BLOCK = 16  # rows of a matrix product; the last block is padded with zeros
PANEL = 1024  # weight rows widened to fp32 at a time, so that scratch stays small
ALIGNMENT = 64  # bytes; what torch's own allocations have


@dataclass(frozen=True, slots=True)
class FloatLinear:
    """fp32 activations times fp32 or bf16 weights, widened to fp32."""

    format: str

    @property
    def name(self) -> str:
        return f"reference_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> Tensor:
        check_stored(self.name, self.format, stored)
        weight = stored["weight"].contiguous()
        if len(weight) % BLOCK:  # with 2 to 11 outputs torch's rows differ by their place, with a multiple of 16 they do not
            weight = F.pad(weight, (0, 0, 0, -len(weight) % BLOCK))
        return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()

    @one_thread()
    def run(self, x: Tensor, prepared: Tensor, bias: Tensor | None, out: Tensor) -> None:
        for column in range(0, out.shape[1], PANEL):
            panel = prepared[column : column + PANEL].float()  # [n', k]
            width = min(PANEL, out.shape[1] - column)
            for row in range(0, len(x), BLOCK):
                rows = x[row : row + BLOCK]
                block = x.new_zeros(BLOCK, x.shape[1])
                block[: len(rows)] = rows
                out[row : row + BLOCK, column : column + width] = F.linear(block, panel)[: len(rows), :width]
        if bias is not None:
            out.add_(bias)


@dataclass(frozen=True, slots=True)
class Whole:
    """A weight of whole numbers, by blocks of 32 inputs.

    Attributes:
        whole: as fp32. [blocks, n, 32]
        worth: of one, per block and output; None where only `scale` counts. [blocks, n]
        least: what is taken off every weight of a block. [blocks, n] or None
        scale: of an output, at the end. [n] or None
    """

    whole: Tensor
    worth: Tensor | None = None
    least: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class IntegerLinear:
    """Weights of whole numbers times rows that are quantised to int8 per block of 32 values.

    A product of a block is an integer below 2^24 and so exact in fp32, in whatever order torch sums it.
    """

    format: str

    @property
    def name(self) -> str:
        return f"reference_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> Whole:
        check_stored(self.name, self.format, stored)
        return _LAID_OUT[self.format](stored)

    def run(self, x: Tensor, prepared: Whole, bias: Tensor | None, out: Tensor) -> None:
        quantised, step = quantise_rows(x)  # [rows, k / 32, 32], [rows, k / 32]
        sums = quantised.sum(-1)
        total = x.new_zeros(len(x), prepared.whole.shape[1])
        for block, whole in enumerate(prepared.whole):
            dot = quantised[:, block] @ whole.T  # [rows, n], integers
            one = step[:, block, None]
            total = fma(dot, one if prepared.worth is None else prepared.worth[block] * one, total)
            if prepared.least is not None:
                total = fma(-sums[:, block, None], prepared.least[block] * one, total)
        out.copy_(total if prepared.scale is None else total * prepared.scale)
        if bias is not None:
            out.add_(bias)


class BlockLinear(IntegerLinear):
    """Where inputs share scales, a row of the weight can be had alone."""

    def gather(self, ids: Tensor, prepared: Whole, out: Tensor) -> None:
        rows = prepared.whole[:, ids] * prepared.worth[:, ids, None]  # [blocks, rows, 32]
        if prepared.least is not None:
            rows -= prepared.least[:, ids, None]
        out.copy_(rows.transpose(0, 1).flatten(1))


def linear(format: str) -> FloatLinear | IntegerLinear:
    """The layer of a format."""
    if format in ("fp32", "bf16"):
        return FloatLinear(format)
    return IntegerLinear(format) if format == "int8" else BlockLinear(format)


def _by_block(weight: Tensor) -> Tensor:
    """[n, k] -> fp32 [blocks, n, 32], the last block filled up with zeros."""
    padded = F.pad(weight.float(), (0, -weight.shape[1] % INT8_BLOCK))
    return padded.unflatten(1, (-1, INT8_BLOCK)).transpose(0, 1).contiguous()


def _nibbles(packed: Tensor) -> Tensor:
    """u8 [n, k / 2] -> fp32 [blocks, n, 32]."""
    halves = packed.unflatten(1, (-1, INT8_BLOCK // 2)).transpose(0, 1)  # [blocks, n, 16]
    return torch.cat([halves & 15, halves >> 4], -1).float()


def _int4_zero(stored: dict[str, Tensor]) -> Whole:
    scale = stored["scale"].float().T.contiguous()  # [blocks, n]
    return Whole(_nibbles(stored["weight"]), scale, scale * stored["least"].float().T)


def _q4_k(stored: dict[str, Tensor]) -> Whole:
    group, least = (stored[name].float().repeat_interleave(8, 1).T for name in ("group", "group_least"))
    return Whole(_nibbles(stored["weight"]), group * stored["scale"].float().T, least * stored["least"].float().T)


def _q6_k(stored: dict[str, Tensor]) -> Whole:
    scaled = stored["weight"].float() * stored["scale"].float().repeat_interleave(16, 1)  # whole numbers still
    return Whole(_by_block(scaled), stored["group"].float().repeat_interleave(8, 1).T.contiguous())


_LAID_OUT: dict[str, Callable[[dict[str, Tensor]], Whole]] = {
    "int8": lambda stored: Whole(_by_block(stored["weight"]), scale=stored["scale"]),
    "q8_0": lambda stored: Whole(_by_block(stored["weight"]), stored["scale"].float().T.contiguous()),
    "int4": lambda stored: Whole(_nibbles(stored["weight"]) - 8, stored["scale"].float().T.contiguous()),
    "int4_zero": _int4_zero,
    "q4_k": _q4_k,
    "q6_k": _q6_k,
}


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8 per block of 32: x [rows, k] -> whole numbers in fp32 [rows, k / 32, 32], scales [rows, k / 32]; k is padded."""
    blocks = F.pad(x, (0, -x.shape[1] % INT8_BLOCK)).unflatten(1, (-1, INT8_BLOCK))
    scale = blocks.abs().amax(-1) / 127
    whole = torch.where(scale[..., None] == 0, 0.0, torch.round(blocks / scale[..., None]))
    return whole, scale
