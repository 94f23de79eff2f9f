"""int4_zero: four bits per weight, one fp16 scale and one zero per 32 inputs: w = (q - zero) * scale, q 0..15.

The zero moves the sixteen steps to where the group's weights lie, so that none is spent on a side without any. A zero weight stays
zero. GPTQ and AWQ checkpoints run on the same kernel (quant/grouped.py).
"""

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.quant.blocks import nibbles

NAME = "int4_zero"
OP = "int4_zero"
GROUP = 32
STEPS = 15
_SPANS = (1.0, 0.9, 0.8)  # of least to greatest, that the steps may cover: the ends are cut off where the rest gains by it
_CHUNK = 1 << 22  # weights rounded at a time, so that the fp32 copy of a large layer never exists as a whole


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" u8 [n, k / 2], byte j of a block of 32: input j, above it j + 16; "scale" fp16 and
    "least" u8, the zeros [n, k / 32].

    Per group the best, by squared error, of three spans, each after one step of least squares.

    Raises:
        InputError: k is no multiple of 32.
    """
    n, k = weight.shape
    if k % GROUP:
        raise InputError(f"quant={NAME!r}: a layer has {k} inputs, no multiple of {GROUP}; take quant='int8'")
    packed = torch.empty(n, k // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(n, k // GROUP, dtype=torch.float16, device=weight.device)
    least = torch.empty(n, k // GROUP, dtype=torch.uint8, device=weight.device)
    rows = max(1, _CHUNK // k)
    for at in range(0, n, rows):
        here = slice(at, at + rows)
        codes, step, zero = _round(weight[here].float().view(-1, GROUP))
        halves = codes.to(torch.uint8).view(-1, 2, GROUP // 2)
        packed[here] = (halves[:, 0] | halves[:, 1] << 4).view(-1, k // 2)
        scale[here], least[here] = step.view(-1, k // GROUP), zero.to(torch.uint8).view(-1, k // GROUP)
    return {"weight": packed, "scale": scale, "least": least}


def _round(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """fp32 [groups, 32] -> codes 0..15 [groups, 32], scales fp16 [groups, 1], zeros 0..15 [groups, 1]."""
    low, high = groups.amin(1, keepdim=True).clamp(max=0), groups.amax(1, keepdim=True).clamp(min=0)
    best = best_error = None
    for span in _SPANS:
        step = (high - low) * (span / STEPS)
        zero = _over(-low * span, step).round_().clamp_(0, STEPS)
        whole = _codes(groups, step, zero) - zero
        square = (whole * whole).sum(1, keepdim=True)
        step = _over((whole * groups).sum(1, keepdim=True), square).half()
        codes = _codes(groups, step.float(), zero)
        error = ((codes - zero) * step.float() - groups).square().sum(1, keepdim=True)
        if best is None:
            best, best_error = (codes, step, zero), error
        else:
            better = error < best_error
            best = tuple(torch.where(better, ours, theirs) for ours, theirs in zip((codes, step, zero), best, strict=True))
            best_error = torch.where(better, error, best_error)
    return best


def _codes(groups: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    return (_over(groups, step).round_() + zero).clamp_(0, STEPS)


def _over(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is."""
    return torch.where(y != 0, x / torch.where(y != 0, y, 1), 0)


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    codes = nibbles(stored["weight"].unflatten(1, (-1, GROUP // 2))).float()  # [n, k / 32, 32]
    return ((codes - stored["least"].float()[:, :, None]) * stored["scale"].float()[:, :, None]).flatten(1)


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k // 2 + n * k // GROUP * 3
