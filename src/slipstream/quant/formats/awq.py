"""AWQ: 4-bit numbers with a scale and a zero per group of inputs, w = (q - zero) * scale (Lin et al. 2023).

Stored by AutoAWQ (version "gemm"): qweight i32 [k, n / 8] and qzeros i32 [groups, n / 8], packed along n in the order of _ORDER;
scales [groups, n].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.grouped import OP, Grouped, runs
from slipstream.quant.packing import groups, spread
from slipstream.quant.scheme import Scheme, Shape, field, group

NAME = "awq"
METHODS = ("awq",)
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble i of a word is output _ORDER[i] of its eight
_WAY_OUT = "take another quantisation of the model, or the unquantised one with quant='int8'"


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    if config.get("quant_method") not in METHODS:
        return None
    field(config, "bits", (4,), config.get("w_bit", 4), NAME, _WAY_OUT)
    field(config, "version", ("gemm", "GEMM"), "gemm", NAME, _WAY_OUT)
    field(config, "zero_point", (True,), True, NAME, _WAY_OUT)
    size = group({"group_size": config.get("group_size", config.get("q_group_size", 128))}, NAME)
    return Scheme(
        name=NAME,
        key="qweight",
        dtypes=("I32",),
        shape=lambda shapes: (shapes["qweight"][1] * 8, shapes["qweight"][0]),
        unpack=lambda stored, shape: unpack(stored, shape, group_size=size),
        needed=("qzeros", "scales"),
        native=lambda stored, k: OP if runs(stored["scales"], None, k, size) else None,
        lay_out=lambda stored, shape: lay_out(stored, group_size=size),
    )


def unpack(stored: Mapping[str, Tensor], shape: Shape | None = None, *, group_size: int = 128) -> Tensor:
    """The weights, fp32 [n, k].

    Raises:
        CheckpointError: the tensors do not fit each other.
    """
    return _grouped(stored, group_size).plain()


def lay_out(stored: Mapping[str, Tensor], *, group_size: int = 128) -> dict[str, Tensor]:
    """The same weights as the tensors of kernel OP."""
    return _grouped(stored, group_size).laid_out()


def _grouped(stored: Mapping[str, Tensor], group_size: int) -> Grouped:
    q, zeros, scales = _restored(stored["qweight"]), _restored(stored["qzeros"]), stored["scales"]
    index = groups(len(scales), group_size, len(q))
    if zeros.shape != scales.shape or q.shape[1] != scales.shape[1] or int(index.max()) >= len(scales):
        raise CheckpointError("scales and qzeros do not fit qweight and group_size; fetch the whole checkpoint again")
    return Grouped(q, zeros, scales, index)


def _restored(words: Tensor) -> Tensor:
    """i32 [a, n / 8] -> [a, n] in the order of outputs."""
    packed = spread(words, 4, 1).unflatten(1, (-1, 8))
    return packed[:, :, torch.tensor(_ORDER).argsort()].flatten(1)
