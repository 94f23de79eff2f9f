"""Candidates for the whole-number products: ways to multiply x [m, k] bf16 by one packed layer; results fp32.

Owns the layers they are tried on and how each is called. All forms of a kind read the same packed weights, made once per layer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from slipstream.base import registry
from slipstream.ops.triton import carried, folded, fp8, packed, streamed, whole, widened
from slipstream.ops.triton.launch import Variant
from slipstream.ops.triton.packing import Form, Packed

FORMATS = "slipstream.quant.formats"
Product = Callable[[Tensor, Packed, None, Tensor], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A format of weights and how many of them share a scale; 0: all of an output. `bits`: per weight in memory, scales included."""

    format: str
    group: int
    bits: float

    def __str__(self) -> str:
        return f"packed_{self.format}" + (f"_{self.group}" if self.format == "int4_zero" else "")

    def form(self, n: int, k: int) -> Form:
        """What `pack` makes of such weights, random ones."""
        if self.format in ("int8", "fp6"):
            return Form(n, k, 6 if self.format == "fp6" else 8, 0, "*fp32")
        return Form(n, k, 4, self.group, "*fp16", "zero") if self.format == "int4_zero" else Form(n, k, 4, self.group, "*fp16", middle=8)


INT4, ZERO_128, INT8, FP6 = Kind("int4", 32, 4.5), Kind("int4_zero", 128, 4 + 24 / 128), Kind("int8", 0, 8), Kind("fp6", 0, 6)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to multiply by weights of `kind`.

    Attributes:
        kind: of weights.
        suffix: its name is the kind's and this.
        least, most: rows that it is tried with.
        product: as packed.product.
        variants: (form, rows) -> what it launches, to be compiled before; cuBLAS needs nothing.
        way: as a table of whole.py has it; "" where none can.
    """

    kind: Kind
    suffix: str
    least: int
    most: int
    product: Product
    variants: Callable[[Form, int], tuple[Variant, ...]]
    way: whole.Way = ""

    @property
    def name(self) -> str:
        return f"{self.kind}{self.suffix}"


def engine(kind: Kind, suffix: str = "", invariant: bool = False) -> Candidate:
    """What the engine does for any number of rows, in fast or deterministic settings."""
    product = partial(whole.product, deterministic=invariant)
    return Candidate(kind, suffix, 1, 1 << 31, product, lambda form, rows: tuple(variant for *_, variant in whole.variants(form)))


def tiled(kind: Kind, suffix: str, least: int, most: int) -> Candidate:
    """The products of ops/triton/packed.py."""
    return Candidate(kind, suffix, least, most, packed.product, lambda form, rows: packed.variants(form, rows, False), whole.TILES)


def unpacked(kind: Kind, suffix: str, least: int, scratch: int = widened.SCRATCH) -> Candidate:
    """Unpacked first, then cuBLAS."""
    product = partial(widened.product, most=scratch)
    return Candidate(kind, suffix, least, 1 << 31, product, lambda form, rows: (widened.variant(form),), whole.UNPACKED)


def coded(kind: Kind) -> Candidate:
    """Activations in e4m3, which are made within what is timed; all numbers of rows."""
    return Candidate(
        kind, "_codes", 1, 1 << 31,
        lambda x, layer, bias, out: packed.product(fp8.coded(x), layer, bias, out),
        lambda form, rows: (fp8.quantise_variant(form.inputs, False), *packed.variants(form, rows, False, narrow=True)),
    )  # fmt: skip


def single(kind: Kind, least: int, most: int, *stream: int) -> Candidate:
    """The products of ops/triton/streamed.py; `stream`: rows, deep, wide, each, ahead, fill."""
    chosen = streamed.Stream(*stream)
    fill = f"_fill{chosen.fill}" if chosen.fill != streamed.FILL else ""
    return Candidate(
        kind, f"_stream{chosen.rows}_{chosen.deep}x{chosen.wide}_ahead{chosen.ahead}{fill}", least, most,
        lambda x, layer, bias, out: streamed.product(x, layer, bias, out, streamed.fitting(layer.form, chosen)),
        lambda form, rows: (streamed.variant(form, False, streamed.fitting(form, chosen)),), chosen,
    )  # fmt: skip


def fold(kind: Kind, least: int, most: int, *shape: int) -> Candidate:
    """The products of ops/triton/folded.py; `shape`: rows, warps, each, depth, ahead, sides, fill, registers, across."""
    chosen = folded.Folded(*shape)
    name = f"_folded{chosen.rows}_{chosen.warps}x{chosen.each}_{chosen.depth}x{chosen.ahead}x{chosen.sides}_across{chosen.across}"
    return Candidate(
        kind, name + (f"_fill{chosen.fill}" if chosen.fill != folded.FILL else ""), least, most,
        lambda x, layer, bias, out: folded.product(x, layer, bias, out, folded.fitting(layer.form, chosen)),
        lambda form, rows: (folded.variant(form, False, folded.fitting(form, chosen)),), chosen,
    )  # fmt: skip


def carry(kind: Kind, chosen: carried.Carried) -> Candidate:
    """The products of ops/triton/carried.py, for as many rows as a form takes."""
    return Candidate(
        kind, carried_name(chosen), 1 if chosen.rows == 8 else 16, chosen.rows,
        lambda x, layer, bias, out: carried.product(x, layer, bias, out, chosen),
        lambda form, rows: (carried.variant(form, False, chosen),), chosen,
    )  # fmt: skip


def carried_name(chosen: carried.Carried) -> str:
    """In tables: rows, warps that share inputs and outputs, outputs of one, rounds of the ring, programs that are wanted."""
    return f"_carried{chosen.rows}_{chosen.deep}x{chosen.wide}x{chosen.each}_ring{chosen.ring}_fill{chosen.fill}"


# Shapes of carried.py: rows, deep, wide, each, ring, fill. A round is 11 KB with 8 rows and 13 KB with 16, twice that with two deep.
CARRIED = (
    *(carried.Carried(8, *rest) for rest in ((1, 4, 32, 6, 396), (1, 4, 32, 4, 660), (1, 4, 32, 8, 264), (1, 4, 32, 12, 132))),
    *(carried.Carried(8, *rest) for rest in ((1, 4, 32, 6, 792), (1, 2, 64, 6, 396), (2, 2, 32, 6, 396), (2, 2, 32, 4, 528))),
    *(carried.Carried(8, *rest) for rest in ((4, 1, 32, 4, 396), (2, 4, 32, 4, 264))),
    *(carried.Carried(16, *rest) for rest in ((1, 4, 32, 5, 396), (1, 4, 32, 8, 264), (1, 4, 32, 5, 792), (1, 2, 64, 5, 396))),
    *(carried.Carried(16, *rest) for rest in ((2, 2, 32, 5, 396), (2, 4, 32, 4, 264))),
)
# Shapes of folded.py after the least and most rows that they are tried with: for all kinds, and for one.
FOLDED = (
    (8, 16, 16, 8, 16), (8, 16, 16, 4, 16), (32, 32, 32, 8, 16), (64, 64, 64, 8, 16), (64, 64, 64, 8, 16, 128, 2, 2, 4224),
    (128, 2048, 128, 8, 16, 64, 2, 2, 2112, 128), (128, 2048, 128, 8, 32, 64, 2, 4, 1056),
)  # fmt: skip
MORE_FOLDED = (
    (8, 16, 16, 8, 16, 128, 2, 2, 3584), (8, 16, 16, 4, 32), (32, 32, 32, 8, 16, 128, 2, 2, 1056), (32, 32, 32, 4, 32),
    (64, 64, 64, 8, 16, 128, 2, 2, 1056), (64, 64, 64, 16, 16), (64, 64, 64, 4, 32, 128, 1, 2),
    (64, 64, 64, 16, 16, 128, 2, 2, 2112, 0, 1), (64, 64, 64, 8, 16, 128, 2, 2, 2112, 128, 1),
    (128, 2048, 128, 16, 16, 64, 2, 4), (256, 2048, 256, 8, 16, 64, 2, 2, 1056),
)  # fmt: skip

CANDIDATES = (
    *(single(ZERO_128, 1, 8, 8, deep, 1, 32, ahead) for deep, ahead in ((4, 1), (2, 2))),
    single(ZERO_128, 16, 16, 16, 4, 2, 32, 1),
    unpacked(ZERO_128, "_unpacked", 128),
    single(INT4, 1, 8, 8, 4, 1, 32, 1),
    single(INT8, 1, 8, 8, 4, 1, 32, 1),
    tiled(FP6, "_tiles", 1, 256),
    unpacked(FP6, "_unpacked", 32),
    *(coded(kind) for kind in (INT4, ZERO_128)),
    *(carry(kind, chosen) for kind in (INT4, ZERO_128) for chosen in CARRIED),
    *(fold(INT4, *shape) for shape in FOLDED + MORE_FOLDED),
    *(fold(kind, *shape) for kind in (ZERO_128, INT8) for shape in FOLDED),
)
DRY_CANDIDATES = (tiled(INT4, "", 1, 16),)  # what Triton's interpreter knows


def multiply(candidate: Candidate, x: Tensor, layer: Packed) -> Tensor:
    """x [m, k] bf16 -> fp32 [m, n]."""
    form = layer.form
    out = torch.empty(x.shape[0], form.outputs, device=x.device)
    candidate.product(F.pad(x, (0, form.k - form.inputs)) if form.k > form.inputs else x, layer, None, out)
    return out


def stored(kind: Kind, weight: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """What the engine would be given for weight [n, k], and the weights that it means, fp32 [n, k]."""
    if kind.format != "int4_zero":
        format = registry.load(FORMATS, kind.format)
        parts = format.quantise(weight)
        return parts, format.unpack(parts)
    whole, scale, least = four_bits(weight, kind.group)
    scale, zero = scale.half(), torch.round(-least / scale).clamp(0, 15)  # [n, k / group, 1]
    halves = whole.to(torch.uint8).unflatten(1, (-1, 2, 16))
    parts = {
        "weight": (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1),
        "scale": scale.squeeze(-1).repeat_interleave(kind.group // 32, 1),
        "least": zero.squeeze(-1).to(torch.uint8).repeat_interleave(kind.group // 32, 1),
    }
    return parts, ((whole.unflatten(1, (-1, kind.group)) - zero) * scale.float()).flatten(1)


def four_bits(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers 0..15 [n, k] int32, scale and least value [n, k / group, 1] of asymmetric 4-bit groups."""
    groups = weight.float().unflatten(1, (-1, group))
    least, most = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (most - least).clamp(min=1e-6) / 15
    return torch.round((groups - least) / scale).clamp(0, 15).int().flatten(1), scale, least
