"""FP8 (Micikevicius et al. 2022): 8-bit floats e4m3 or e5m2 with a scale per tensor, row or block, w = q * scale.

Stored: weight fp8 [n, k] and its scale, called weight_scale, or weight_scale_inv (DeepSeek; it is multiplied with all the same),
of shape [], [1], [n], [n, 1] or, for blocks, [ceil(n / 128), ceil(k / 128)]. Written by DeepSeek and transformers ("fp8"), FBGEMM,
compressed-tensors ("float-quantized", "naive-quantized") and ModelOpt. Scales of activations are not needed.

Weights of any kind can be rounded to it, one scale per output channel. The kernels' forms: "fp8", scale [n], and "fp8_block",
scale [n, k / 128], each row of a block holding the block's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.compressed import METHOD, UNUSED, refuse, weights_of
from slipstream.quant.scales import round_rows, spread_scale
from slipstream.quant.scheme import Scheme, Shape

NAME = "fp8"
OP = "fp8"
BY_BLOCK = "fp8_block"
METHODS = ("fp8", "fbgemm_fp8", "modelopt", METHOD)
GREATEST = 448.0  # e4m3
GROUP = 128  # inputs that the kernels take at a time
_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
_BLOCK = (128, 128)
_WAY_OUT = "take another quantisation of the model, or the unquantised one with quant='int8'"


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    method, block, note = config.get("quant_method"), None, "its scales of activations are not used"
    if method == METHOD:
        weights = weights_of(config, ("float-quantized", "naive-quantized"), "float")
        if weights is None:
            return None
        if weights.get("num_bits", 8) != 8:
            raise refuse("num_bits", weights["num_bits"], "8")
        block = _pair(weights.get("block_structure"))
        note += ", its KV cache scales are not used" if config.get("kv_cache_scheme") else ""
    elif method == "modelopt":
        algorithm = config.get("quant_algo")
        if algorithm not in _ALGORITHMS:
            refused = f"quant_algo={algorithm!r} is not supported; supported: {', '.join(_ALGORITHMS)}"
            raise CheckpointError(f"quantization_config (modelopt): {refused}; {_WAY_OUT}")
    elif method == "fp8":
        block = _pair(config.get("weight_block_size"))
    elif method != "fbgemm_fp8":
        return None
    return Scheme(
        name=NAME,
        key="weight",
        dtypes=("F8_E4M3", "F8_E5M2"),
        shape=lambda shapes: shapes["weight"],
        unpack=lambda stored, shape: unpack(stored, shape, block=block),
        optional=("weight_scale", "weight_scale_inv"),
        unused=("input_scale_ub", "activation_scale", *UNUSED),
        note=note,
        native=lambda stored, k: _native(stored, k, block),
        lay_out=lambda stored, shape: lay_out(stored, shape, block=block),
    )


def unpack(stored: Mapping[str, Tensor], shape: Shape | None = None, *, block: tuple[int, int] | None = _BLOCK) -> Tensor:
    """The weights, fp32 [n, k], of a checkpoint's tensors or a kernel's.

    Raises:
        CheckpointError: there is no scale, or it does not fit.
    """
    values = stored["weight"].float()
    return values * spread_scale(_scale(stored).float(), values.shape, block)


def quantise(weight: Tensor) -> dict[str, Tensor]:
    """Stored tensors of weight [n, k]: "weight" e4m3 [n, k], rounded to nearest even, "scale" fp32 [n] = largest size of the row / 448."""
    codes, scale = round_rows(weight, torch.float8_e4m3fn, GREATEST)
    return {"weight": codes, "scale": scale}


def bytes(n: int, k: int) -> int:
    """Bytes of the stored tensors of an [n, k] weight."""
    return n * k + 4 * n


def lay_out(stored: Mapping[str, Tensor], shape: Shape, *, block: tuple[int, int] | None = _BLOCK) -> dict[str, Tensor]:
    """The same weights as the tensors of a kernel, the one that `Scheme.native` names."""
    n, k = shape
    wide = spread_scale(_scale(stored).float(), (n, k), block)  # [1 or n, 1 or k]
    scale = wide.expand(n, 1).reshape(n) if wide.shape[1] == 1 else wide[:, ::GROUP]
    return {"weight": stored["weight"], "scale": scale.contiguous()}


def _native(stored: Mapping[str, Tensor], k: int, block: tuple[int, int] | None) -> str | None:
    """The kernel that takes the tensors as they are: e4m3 in whole groups, by one scale per output or one per 128 inputs."""
    weight, scale = stored["weight"], stored.get("weight_scale", stored.get("weight_scale_inv"))
    if scale is None or weight.dtype is not torch.float8_e4m3fn or k % GROUP:
        return None
    if scale.numel() == 1 or scale.shape in ((len(weight),), (len(weight), 1)):
        return OP
    return BY_BLOCK if scale.ndim == 2 and scale.shape[1] * GROUP == k and (block is None or block[1] == GROUP) else None


def _scale(stored: Mapping[str, Tensor]) -> Tensor:
    for name in ("weight_scale", "weight_scale_inv", "scale"):
        if name in stored:
            return stored[name]
    raise CheckpointError("has neither weight_scale nor weight_scale_inv; fetch the whole checkpoint")


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, str):  # compressed-tensors of 2024: "128x128"
        value = [int(part) for part in value.split("x") if part.isdigit()]
    if not isinstance(value, list | tuple) or len(value) != 2 or any(type(size) is not int or size < 1 for size in value):
        raise CheckpointError(f"quantization_config: block size {value!r} must be two whole numbers; {_WAY_OUT}")
    return value[0], value[1]
