"""Weights of 4, 6 or 8 bits as the GPU kernels read them. Owns the layout; must not know the kernels' arithmetic.

For n outputs (padded to OUTPUTS) and k inputs (padded to STEP): 16 codes int16 per output and block, a block being 64 inputs of 4
bits or 32 of 8. Number j of an output holds inputs j, j + 16 and so on of the block, the first in its lowest bits. Codes of 6 bits
are two planes, one behind the other: the lower 4 bits in blocks of 64 inputs, the upper 2 in blocks of 128.
Codes lie as the registers of mma.sync want them, [k / block, n / 16, 8, 4, 2, 4]: thread 4 g + t of a warp reads, in 16 bytes, numbers
4 t .. 4 t + 3 of outputs g and g + 8 of a tile of 16, and a shift and a mask make a register of it for each bit plane.
Scales and least values lie by group, [groups, n], outputs g, g + 8, g + 16 and g + 24 of every 32 beside each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OUTPUTS = 128  # the outputs of a tile
STEP = 128  # inputs that a segment of K is a multiple of
NUMBERS = 16  # per output and block; the inputs of one product of the tensor cores
GROUPS = (128, 64)  # what neighbouring blocks of 32 with equal scales and zeros are taken together to, where they can
_TYPES = {torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int8: "*i8"}


@dataclass(frozen=True, slots=True)
class Form:
    """What a compiled kernel takes from a layer.

    Attributes:
        outputs, inputs: of the layer.
        bits: of a code, 4, 6 or 8; 8 are signed, 6 are floats e3m2.
        group: inputs that share a scale: 16, 32, 64 or 128; 0 where all do.
        scale: type of the scales as Triton names it.
        least: "zero": a whole number per group is taken off the codes; "sum": a least value is taken off the weights; "" neither.
        middle: what is taken off all 4-bit codes where `least` is not "zero".
        wide: inputs that share a second factor of scales and least values; 0 where there is none.
    """

    outputs: int
    inputs: int
    bits: int
    group: int
    scale: str
    least: str = ""
    middle: int = 0
    wide: int = 0

    @property
    def n(self) -> int:
        """Outputs, padded."""
        return -(-self.outputs // OUTPUTS) * OUTPUTS

    @property
    def k(self) -> int:
        """Inputs, padded."""
        return -(-self.inputs // STEP) * STEP

    @property
    def block(self) -> int:
        """Inputs whose codes, or lower planes of them, NUMBERS numbers hold."""
        return NUMBERS * 16 // (4 if self.bits == 6 else self.bits)


@dataclass(frozen=True, slots=True)
class Packed:
    """A layer as the kernels read it.

    Attributes:
        form: its measures.
        codes: int16 [k / block, n / 16, 8, 4, 2, 4]; behind them, where there are 6 bits, the upper plane in as many blocks as it takes.
        scale, least: [groups, n], in threads' order; `least` is `scale` where the form has none, and is not read.
        wide, wide_least: fp16 [k / form.wide, n]; likewise.
        arrived: int32 [n / 32], 0 but while a product counts the segments that are done.
    """

    form: Form
    codes: Tensor
    scale: Tensor
    least: Tensor
    wide: Tensor
    wide_least: Tensor
    arrived: Tensor


def pack(stored: Mapping[str, Tensor]) -> Packed:
    """Packs the stored tensors of a layer (ops/types.py, LINEAR_FORMATS: any but fp32 and bf16)."""
    weight, scale, least = stored["weight"], stored["scale"], stored.get("least")
    planes = {8: weight} if weight.dtype is torch.int8 else {4: weight, 2: stored["upper"]} if "upper" in stored else {4: weight}
    (outputs, width), wide, bits = weight.shape, "group" in stored, sum(planes)
    inputs = width * 8 // next(iter(planes))
    group = inputs // scale.shape[1] if scale.dim() == 2 else 0
    if group == 32 and not wide:
        group = next((size for size in GROUPS if inputs % size == 0 and _alike(size // group, scale, least)), group)
        scale, least = (part if part is None else part[:, :: group // 32] for part in (scale, least))
    form = Form(
        outputs, inputs, bits, group, _TYPES[scale.dtype], "sum" if "group_least" in stored else "zero" if least is not None else "",
        8 if bits == 4 and least is None else 0, 256 if wide else 0,
    )  # fmt: skip
    scales = _by_group(scale.view(outputs, -1), form, group)
    others = ((least, group), (stored.get("group"), form.wide), (stored.get("group_least"), form.wide))
    parts = (scales if part is None else _by_group(part, form, size) for part, size in others)
    codes = torch.cat([_codes(plane, width, form) for width, plane in planes.items()])
    return Packed(form, codes, scales, *parts, torch.zeros(form.n // 32, dtype=torch.int32, device=weight.device))


def _codes(plane: Tensor, bits: int, form: Form) -> Tensor:
    """`bits` of each code, int8 or uint8 [outputs, inputs * bits / 8], inputs j, j + 16 and so on in a byte -> the codes of `Packed`."""
    padded = F.pad(plane.view(torch.uint8), (0, (form.k - form.inputs) * bits // 8, 0, form.n - form.outputs))
    pairs = padded.view(form.n, form.k * bits // (NUMBERS * 16), 2, NUMBERS)  # low bytes of a block's numbers, then the high ones
    numbers = pairs.permute(1, 0, 3, 2).contiguous().view(torch.int16)  # [k / block, n, 16, 1]
    return numbers.view(-1, form.n // 16, 2, 8, 4, 4).permute(0, 1, 3, 4, 2, 5).contiguous()


def _alike(count: int, *parts: Tensor | None) -> bool:
    """Whether every `count` neighbouring groups have equal numbers."""
    present = (part.unflatten(1, (-1, count)) for part in parts if part is not None)
    return all(bool((part == part[..., :1]).all()) for part in present)


def _by_group(part: Tensor, form: Form, size: int) -> Tensor:
    """[outputs, groups] of `size` inputs (0: all) -> [groups, n] in threads' order, filled up with zeros."""
    groups = form.k // size if size else 1
    whole = F.pad(part, (0, groups - part.shape[1], 0, form.n - form.outputs))
    return whole.T.reshape(groups, -1, 2, 2, 8).permute(0, 1, 4, 2, 3).reshape(groups, form.n).contiguous()
