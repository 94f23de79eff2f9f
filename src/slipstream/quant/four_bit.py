"""Weights of four bits and one fp16 scale per group of inputs, symmetric: w = (q - 8) * scale. What the int4 formats share.

Owns the stored form and how weights are rounded to it; must not know kernels (how they quantise activations is
docs/numerics.md) or models.
"""

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.quant.blocks import nibbles
from slipstream.quant.rounding import rounded

BLOCK = 32  # inputs whose nibbles lie together
_CHUNK = 1 << 22  # weights quantised at a time, so that the fp32 copy of a large layer never exists as a whole


def quantise(name: str, weight: Tensor, group: int) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" u8 [n, k / 2], byte j of a block of 32: input j, above it j + 16; "scale" fp16
    [n, k / group].

    Per group, the scale of least squared error among those that put the number of largest size at -8 (all 16 steps are used)
    or at 7 or -7 (nothing is cut off), each after one step of least squares.

    Args:
        name: of the format.
        group: inputs that share a scale, a multiple of 32.

    Raises:
        InputError: k is no multiple of `group`.
    """
    if weight.shape[1] % group:
        other = "int8" if group == BLOCK else "int4"
        raise InputError(f"quant={name!r}: a layer has {weight.shape[1]} inputs, no multiple of {group}; take quant={other!r}")
    return rounded(name, weight, group) or by_torch(weight, group)


def by_torch(weight: Tensor, group: int) -> dict[str, Tensor]:
    """What `quantise` returns, without the native module."""
    n, k = weight.shape
    packed = torch.empty(n, k // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(n, k // group, dtype=torch.float16, device=weight.device)
    rows = max(1, _CHUNK // k)
    for at in range(0, n, rows):
        groups = weight[at : at + rows].float().view(-1, group)
        whole, step = _round(groups)
        whole = whole.add_(8).to(torch.uint8).view(-1, 2, BLOCK // 2)
        packed[at : at + rows] = (whole[:, 0] | whole[:, 1] << 4).view(-1, k // 2)
        scale[at : at + rows] = step.view(-1, k // group)
    return {"weight": packed, "scale": scale}


def _round(groups: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [groups, any] -> whole numbers -8..7 in fp32 of that shape, scales fp16 [groups]."""
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    largest = torch.where(-low >= high, low, high)  # [groups, 1], with its sign
    best_error, best = None, None
    for first in (largest / -8, largest / 7):
        whole = _whole(groups, first)
        square = _dot(whole, whole)
        step = torch.where(square > 0, _dot(whole, groups) / square, 0).half()
        whole = _whole(groups, step.float())
        off = whole * step.float() - groups
        error = _dot(off, off)
        if best is None:
            best_error, best = error, (whole, step)
        else:
            better = error < best_error
            best = torch.where(better, whole, best[0]), torch.where(better, step, best[1])
    return best[0], best[1].squeeze(1)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """Sum of x * y [groups, 16 n] as the kernels add it up (lanes16 of docs/numerics.md), fp32 [groups, 1]."""
    half = BLOCK // 2
    lanes = x[:, :half] * y[:, :half]
    for at in range(half, x.shape[1], half):
        lanes = (x[:, at : at + half].double() * y[:, at : at + half].double() + lanes.double()).float()
    while half > 1:
        half //= 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes


def _whole(groups: Tensor, step: Tensor) -> Tensor:
    return torch.where(step != 0, groups / torch.where(step != 0, step, 1), 0).round_().clamp_(-8, 7)


def unpack(stored: dict[str, Tensor]) -> Tensor:
    """The weights as the kernel sees them, fp32 [n, k]."""
    whole = nibbles(stored["weight"].unflatten(1, (-1, BLOCK // 2))).float() - 8  # [n, k / 32, 32]
    groups = whole.flatten(1).unflatten(1, (stored["scale"].shape[1], -1))
    return (groups * stored["scale"].float()[:, :, None]).flatten(1)


def bytes(n: int, k: int, group: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k // 2 + n * k // group * 2
