"""compressed-tensors "int-quantized": signed bytes with a scale per tensor, row or group, w = (q - zero) * scale.

Stored: weight i8 [n, k]; weight_scale [1], [n, 1] or [n, groups]; weight_zero_point i8 of the same shape, where it is not
symmetric. "naive-quantized" of integers is the same. Read only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slipstream.quant.compressed import METHOD, UNUSED, note_of, refuse, weights_of
from slipstream.quant.scales import spread_scale
from slipstream.quant.scheme import Scheme, Shape

NAME = "int_quantized"
METHODS = (METHOD,)


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    weights = weights_of(config, ("int-quantized", "naive-quantized"), "int")
    if weights is None:
        return None
    if weights.get("num_bits", 8) != 8:
        raise refuse("num_bits", weights["num_bits"], "8")
    return Scheme(
        name=NAME,
        key="weight",
        dtypes=("I8",),
        shape=lambda shapes: shapes["weight"],
        unpack=unpack,
        needed=("weight_scale",),
        optional=("weight_zero_point",),
        unused=UNUSED,
        note=note_of(config),
    )


def unpack(stored: Mapping[str, Tensor], shape: Shape | None = None) -> Tensor:
    """The weights, fp32 [n, k]. Raises CheckpointError where the scale does not fit."""
    q = stored["weight"].float()
    if "weight_zero_point" in stored:
        q = q - spread_scale(stored["weight_zero_point"].float(), q.shape, None)
    return q * spread_scale(stored["weight_scale"].float(), q.shape, None)
