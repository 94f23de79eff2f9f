"""Scales of a matrix: one, one per row, per group of inputs or per block, brought to a shape that multiplies. No format here."""

from torch import Tensor

from slipstream.base.errors import CheckpointError


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
