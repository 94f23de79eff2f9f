"""Scales of a matrix: one, one per row, per group of inputs or per block, brought to a shape that multiplies, and found for every row. No
format here."""

from collections.abc import Callable

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError

_CHUNK = 1 << 22  # weights rounded at a time, so that the fp32 copy of a large layer never exists as a whole


def round_rows(
    weight: Tensor, dtype: torch.dtype, greatest: float, coded: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """weight [n, k] -> (codes [n, k] of `dtype`, rounded to nearest even; scale fp32 [n] = largest size of the row / greatest).

    Args:
        coded: fp32 numbers within -greatest .. greatest -> their codes; None where those are numbers of `dtype`.
    """
    n, k = weight.shape
    codes, scale = torch.empty(n, k, dtype=dtype, device=weight.device), torch.empty(n, device=weight.device)
    rows = max(1, _CHUNK // k)
    for at in range(0, n, rows):
        part = weight[at : at + rows].float()  # [rows, k]
        step = part.abs().amax(1) / greatest  # [rows]
        scale[at : at + rows] = step
        part = part / torch.where(step > 0, step, 1.0)[:, None]
        whole = part.round_() if coded is None and not dtype.is_floating_point else part  # where it is stored it is cut off, not rounded
        whole = whole.clamp_(-greatest, greatest)
        codes[at : at + rows] = (whole if coded is None else coded(whole)).to(dtype)
    return codes, scale


def spread_scale(scale: Tensor, shape: tuple[int, ...], block: tuple[int, int] | None) -> Tensor:
    """`scale` so that it multiplies a matrix of `shape`.

    Args:
        scale: [], [1], [n], [n, 1], [n, groups] or, with `block`, [ceil(n / block[0]), ceil(k / block[1])].
        shape: (n, k).
        block: rows and columns that share a scale.

    Raises:
        CheckpointError: its shape is none of these.
    """
    n, k = shape
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if block is not None and scale.shape == (-(-n // block[0]), -(-k // block[1])):
        return scale.repeat_interleave(block[0], 0)[:n].repeat_interleave(block[1], 1)[:, :k]
    if scale.shape in ((n,), (n, 1)):
        return scale.reshape(n, 1)
    if block is None and scale.ndim == 2 and scale.shape[0] == n and k % scale.shape[1] == 0:
        return scale.repeat_interleave(k // scale.shape[1], 1)
    blocks = f" in blocks of {block[0]} x {block[1]}" if block else ""
    raise CheckpointError(f"a scale of shape {list(scale.shape)} does not fit {n} x {k} weights{blocks}; fetch the whole checkpoint again")
