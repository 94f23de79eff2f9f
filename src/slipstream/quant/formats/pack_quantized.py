"""compressed-tensors "pack-quantized": 4 or 8-bit numbers packed along k, a scale per row or group, w = (q - zero) * scale.

Stored: weight_packed i32 [n, k * bits / 32], numbers plus 2^(bits-1); weight_scale [n, groups]; weight_zero_point i32
[n * bits / 32, groups], packed along n with the same offset, where it is not symmetric; weight_g_idx [k], the group of each
input; weight_shape [2]. neuralmagic/compressed-tensors, compressors/quantized_compressors/pack_quantized.py. Read only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.compressed import METHOD, UNUSED, note_of, refuse, weights_of
from slipstream.quant.packing import groups, spread
from slipstream.quant.scheme import Scheme, Shape

NAME = "pack_quantized"
METHODS = (METHOD,)


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    weights = weights_of(config, ("pack-quantized",), "int")
    if weights is None:
        return None
    bits = weights.get("num_bits")
    if bits not in (4, 8):
        raise refuse("num_bits", bits, "4, 8")
    if weights.get("strategy") not in ("group", "channel", "tensor", None):
        raise refuse("strategy", weights["strategy"], "group, channel, tensor")
    return Scheme(
        name=NAME,
        key="weight_packed",
        dtypes=("I32",),
        shape=lambda shapes: (shapes["weight_packed"][0], shapes["weight_packed"][1] * 32 // bits),
        unpack=lambda stored, shape: unpack(stored, shape, bits=bits),
        needed=("weight_scale",) if weights.get("symmetric", True) else ("weight_scale", "weight_zero_point"),
        optional=("weight_g_idx", "weight_zero_point"),
        unused=("weight_shape", *UNUSED),
        note=note_of(config),
    )


def unpack(stored: Mapping[str, Tensor], shape: Shape | None = None, *, bits: int = 4) -> Tensor:
    """The weights, fp32 [n, k].

    Raises:
        CheckpointError: the tensors do not fit each other.
    """
    q = spread(stored["weight_packed"], bits, 1) - 2 ** (bits - 1)  # [n, k]
    n, k = q.shape
    scale = stored["weight_scale"].float().reshape(-1, stored["weight_scale"].shape[-1] if stored["weight_scale"].ndim > 1 else 1)
    if k % scale.shape[1] or scale.shape[0] not in (1, n):
        raise CheckpointError(f"weight_scale of shape {list(stored['weight_scale'].shape)} does not fit {n} x {k} weights; fetch it again")
    index = stored["weight_g_idx"].long() if "weight_g_idx" in stored else groups(scale.shape[1], k // scale.shape[1], k)
    if index.shape != (k,) or int(index.min()) < 0 or int(index.max()) >= scale.shape[1]:
        raise CheckpointError("weight_g_idx does not fit weight_packed and weight_scale; fetch the whole checkpoint again")
    if "weight_zero_point" in stored:
        zeros = spread(stored["weight_zero_point"], bits, 0)[:n] - 2 ** (bits - 1)  # [n, groups]
        if zeros.shape != (n, scale.shape[1]):
            raise CheckpointError("weight_zero_point does not fit weight_scale; fetch the whole checkpoint again")
        q = q - zeros[:, index]
    return q.float() * scale[:, index]
