"""Pairs: the outputs of gate and up beside each other, so that one program has both and can gate what it has summed.

Owns that order, and how a layer is laid out so and taken apart again. Of every 16 outputs eight are of gate and the eight of up
that they belong to follow: the 16 rows of a tile of the tensor cores, of which one thread holds row j and row j + 8.
"""

from collections.abc import Mapping

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from slipstream.base.errors import InputError

SIDE = 8  # outputs of gate, then as many of up


def paired(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a layer [2 f, ...], gate before up, with their outputs in pairs.

    Raises:
        InputError: f is no multiple of SIDE.
    """
    return {name: _paired(name, tensor) for name, tensor in stored.items()}


def _paired(name: str, tensor: Tensor) -> Tensor:
    if len(tensor) % (2 * SIDE):
        raise InputError(f"paired: {name} must have a multiple of {2 * SIDE} outputs; found {len(tensor)}")
    return tensor.unflatten(0, (2, -1, SIDE)).transpose(0, 1).flatten(0, 2).contiguous()


@gluon.jit
def sides(numbers):
    """Of [16 t, rows] in pairs: gate and up, both [8 t, rows]."""
    tiles: gl.constexpr = numbers.shape[0] // 16
    rows: gl.constexpr = numbers.shape[1]
    gate, up = numbers.reshape([tiles, 2, 8, rows]).permute([0, 2, 3, 1]).split()
    return gate.reshape([8 * tiles, rows]), up.reshape([8 * tiles, rows])
