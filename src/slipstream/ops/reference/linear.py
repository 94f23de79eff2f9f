"""Linear layers of each weight format."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.ops.reference.arithmetic import fma, one_thread
from slipstream.ops.types import BLOCK, CODED, E4M3, FLOATS, LANES, SPANS, check_stored

TOGETHER = 16  # rows of a matrix product; the last ones are padded with zeros
PANEL = 1024  # weight rows widened to fp32 at a time, so that scratch stays small
ALL = 1 << 40  # blocks: more than a row has
ALIGNMENT = 64  # bytes; what torch's own allocations have
GREATEST, LEAST = 448.0, 1e-12  # e4m3's greatest number; what a row of zeros is taken for, so that nothing is divided by 0


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
        if len(weight) % TOGETHER:  # with 2 to 11 outputs torch's rows differ by their place, with a multiple of 16 they do not
            weight = F.pad(weight, (0, 0, 0, -len(weight) % TOGETHER))
        return weight if weight.data_ptr() % ALIGNMENT == 0 else weight.clone()

    @one_thread()
    def run(self, x: Tensor, prepared: Tensor, bias: Tensor | None, out: Tensor) -> None:
        for column in range(0, out.shape[1], PANEL):
            panel = prepared[column : column + PANEL].float()  # [n', k]
            width = min(PANEL, out.shape[1] - column)
            for row in range(0, len(x), TOGETHER):
                rows = x[row : row + TOGETHER]
                block = x.new_zeros(TOGETHER, x.shape[1])
                block[: len(rows)] = rows
                out[row : row + TOGETHER, column : column + width] = F.linear(block, panel)[: len(rows), :width]
        if bias is not None:
            out.add_(bias)


@dataclass(frozen=True, slots=True)
class Whole:
    """A weight of whole numbers, by blocks of 32 inputs.

    Attributes:
        whole: as fp32. [blocks, n, 32]
        worth: of one, per group of blocks and output; None where only `scale` counts. [groups, n]
        group: blocks of a group, 0 for all.
        least: what is taken off every weight of a block. [blocks, n] or None
        scale: of an output, at the end. [n] or None
    """

    whole: Tensor
    worth: Tensor | None = None
    group: int = 1
    least: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class IntegerLinear:
    """Weights of whole numbers times rows that are quantised to int8, `activations` values by one scale ("row": all of a row), or to e4m3
    by one scale ("fp8").

    A product of a block is an integer below 2^24 and so exact in fp32, in whatever order torch sums it; sums of such are exact in fp64, and
    so are those of e4m3.
    """

    format: str
    activations: str = "32"

    @property
    def name(self) -> str:
        return f"reference_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> Whole:
        check_stored(self.name, self.format, stored)
        return _LAID_OUT[self.format](stored)

    def run(self, x: Tensor, prepared: Whole, bias: Tensor | None, out: Tensor) -> None:
        blocks, span, group = len(prepared.whole), SPANS[self.activations] or ALL, prepared.group or ALL
        quantised, step = e4m3_blocks(x) if self.activations == CODED else quantise_rows(x, span)  # [rows, blocks, 32], [rows, spans]
        total = x.new_zeros(len(x), prepared.whole.shape[1])
        for first in range(0, blocks, span):
            last, one = min(first + span, blocks), step[:, first // span, None]
            part = torch.zeros_like(total)  # where the scale of the activations comes last
            for block in range(first, last, min(group, span)):
                unit = range(block, min(block + group, last))
                dot = sum((quantised[:, b] @ prepared.whole[b].T.to(quantised.dtype)).double() for b in unit).float()  # [rows, n], exact
                worth = None if prepared.worth is None else prepared.worth[block // group]
                if span > group:
                    part = fma(dot, worth, part)
                else:
                    total = fma(dot, one if worth is None else worth * one, total)
                if prepared.least is not None:
                    total = fma(-quantised[:, block].sum(-1).float()[:, None], prepared.least[block] * one, total)
            if span > group:
                total = fma(part, one, total)
        out.copy_(total if prepared.scale is None else total * prepared.scale)
        if bias is not None:
            out.add_(bias)


class BlockLinear(IntegerLinear):
    """Where inputs share scales, a row of the weight can be had alone."""

    def gather(self, ids: Tensor, prepared: Whole, out: Tensor) -> None:
        worth = prepared.worth.repeat_interleave(prepared.group, 0)
        rows = prepared.whole[:, ids] * worth[:, ids, None]  # [blocks, rows, 32]
        if prepared.least is not None:
            rows -= prepared.least[:, ids, None]
        out.copy_(rows.transpose(0, 1).flatten(1))


@dataclass(frozen=True, slots=True)
class E4m3Linear:
    """Weights in e4m3 times rows that are rounded to bf16 and then to e4m3, by one scale or by one per 128 inputs."""

    format: str

    @property
    def name(self) -> str:
        return f"reference_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Per group of inputs that share a scale of activations: fp32 weights [n, inputs], filled up to whole blocks of rows; scale [n]."""
        n, k = check_stored(self.name, self.format, stored)
        scales = stored["scale"].view(n, -1)
        size = k // scales.shape[1]
        parts = F.pad(stored["weight"].float(), (0, 0, 0, -n % TOGETHER)).split(size, 1)
        return [(part.clone(), scale.clone()) for part, scale in zip(parts, scales.T, strict=True)]

    @one_thread()
    def run(self, x: Tensor, prepared: list[tuple[Tensor, Tensor]], bias: Tensor | None, out: Tensor) -> None:
        total, at = x.new_zeros(out.shape), 0
        for weight, scale in prepared:
            codes, step = e4m3_rows(x[:, at : at + weight.shape[1]])
            dot = torch.empty(len(x), len(scale))
            FloatLinear("fp32").run(codes, weight, None, dot)
            total, at = fma(dot, step * scale, total), at + weight.shape[1]
        out.copy_(total)
        if bias is not None:
            out.add_(bias)


@dataclass(frozen=True, slots=True)
class ScaledLinear:
    """fp32 activations times floats of few bits, widened to fp32; an output's scale comes last."""

    format: str

    @property
    def name(self) -> str:
        return f"reference_{self.format}"

    def prepare(self, stored: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What `FloatLinear` packs of the plain numbers; scale [n]."""
        check_stored(self.name, self.format, stored)
        return FloatLinear("fp32").prepare({"weight": _e3m2(stored)}), stored["scale"]

    def run(self, x: Tensor, prepared: tuple[Tensor, Tensor], bias: Tensor | None, out: Tensor) -> None:
        weight, scale = prepared
        FloatLinear("fp32").run(x, weight, None, out)
        out.mul_(scale)
        if bias is not None:
            out.add_(bias)


def linear(format: str, activations: str = "32") -> FloatLinear | IntegerLinear | E4m3Linear | ScaledLinear:
    """The layer of a format, `activations` values of a row by one scale where it rounds them."""
    if format in FLOATS:
        return FloatLinear(format)
    if format in E4M3:
        return E4m3Linear(format)
    if format == "fp6":
        return ScaledLinear(format)
    return (IntegerLinear if format == "int8" else BlockLinear)(format, activations)


def _by_block(weight: Tensor) -> Tensor:
    """[n, k] -> fp32 [blocks, n, 32], the last block filled up with zeros."""
    padded = F.pad(weight.float(), (0, -weight.shape[1] % BLOCK))
    return padded.unflatten(1, (-1, BLOCK)).transpose(0, 1).contiguous()


def _nibbles(packed: Tensor) -> Tensor:
    """u8 [n, k / 2] -> fp32 [blocks, n, 32]."""
    halves = packed.unflatten(1, (-1, BLOCK // 2)).transpose(0, 1)  # [blocks, n, 16]
    return torch.cat([halves & 15, halves >> 4], -1).float()


def _e3m2(stored: dict[str, Tensor]) -> Tensor:
    """The numbers that six bits mean, fp32 [n, k]: of the four lower ones two are of the exponent, two of the fraction."""
    low, upper = (
        torch.cat([stored[name].unflatten(1, (-1, LANES)) >> shift & 2**bits - 1 for shift in range(0, 8, bits)], -1).flatten(1).int()
        for name, bits in (("weight", 4), ("upper", 2))
    )
    exponent, fraction = (upper & 1) << 2 | low >> 2, low & 3
    size = torch.where(exponent > 0, (4 + fraction) << (exponent - 1).clamp(min=0), fraction)  # sixteenths
    return torch.where(upper > 1, -size, size).float() / 16


def _int4_zero(stored: dict[str, Tensor]) -> Whole:
    scale = stored["scale"].float().T.contiguous()  # [blocks, n]
    return Whole(_nibbles(stored["weight"]), scale, least=scale * stored["least"].float().T)


def _q4_k(stored: dict[str, Tensor]) -> Whole:
    group, least = (stored[name].float().repeat_interleave(8, 1).T for name in ("group", "group_least"))
    return Whole(_nibbles(stored["weight"]), group * stored["scale"].float().T, least=least * stored["least"].float().T)


def _q6_k(stored: dict[str, Tensor]) -> Whole:
    scaled = stored["weight"].float() * stored["scale"].float().repeat_interleave(16, 1)  # whole numbers still
    return Whole(_by_block(scaled), stored["group"].float().repeat_interleave(8, 1).T.contiguous())


def _int4(stored: dict[str, Tensor]) -> Whole:
    whole, scale = _nibbles(stored["weight"]) - 8, stored["scale"].float().T.contiguous()
    return Whole(whole, scale, len(whole) // len(scale))


_LAID_OUT: dict[str, Callable[[dict[str, Tensor]], Whole]] = {
    "int8": lambda stored: Whole(_by_block(stored["weight"]), group=0, scale=stored["scale"]),
    "q8_0": lambda stored: Whole(_by_block(stored["weight"]), stored["scale"].float().T.contiguous()),
    **dict.fromkeys(("int4", "int4_64", "int4_128"), _int4),
    "int4_zero": _int4_zero,
    "q4_k": _q4_k,
    "q6_k": _q6_k,
}


def e4m3_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """x [rows, k], rounded to bf16 and then by one scale per row to e4m3 -> those numbers in fp32 [rows, k], scales [rows, 1]."""
    narrow = x.bfloat16().float()
    step = narrow.abs().amax(1, keepdim=True).clamp(min=LEAST) / GREATEST
    return (narrow / step).clamp(-GREATEST, GREATEST).to(torch.float8_e4m3fn).float(), step


def e4m3_blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same, fp64 [rows, blocks, 32]; k must be whole blocks."""
    codes, step = e4m3_rows(x)
    return codes.double().unflatten(1, (-1, BLOCK)), step


def quantise_rows(x: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """Symmetric int8 with a scale per `span` blocks of 32: x [rows, k] -> whole numbers in fp32 [rows, blocks, 32], scales [rows, spans];
    k is padded."""
    blocks = F.pad(x, (0, -x.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    largest = blocks.abs().amax(-1)
    span = min(span, largest.shape[1])
    scale = F.pad(largest, (0, -largest.shape[1] % span)).unflatten(1, (-1, span)).amax(-1) / 127
    each = scale.repeat_interleave(span, 1)[:, : blocks.shape[1], None]  # of every block
    return torch.where(each == 0, 0.0, torch.round(blocks / each)), scale
