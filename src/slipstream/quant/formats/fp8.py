"""FP8 (Micikevicius et al. 2022): 8-bit floats e4m3 or e5m2 with a scale per tensor, row or block, w = q * scale.

Stored: weight fp8 [n, k] and its scale, called weight_scale, or weight_scale_inv (DeepSeek; it is multiplied with all the same),
of shape [], [1], [n], [n, 1] or, for blocks, [ceil(n / 128), ceil(k / 128)]. Written by DeepSeek and transformers ("fp8"), FBGEMM,
compressed-tensors ("float-quantized", "naive-quantized") and ModelOpt. Scales of activations are not needed. Read only.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.compressed import METHOD, UNUSED, note_of, refuse, weights_of
from slipstream.quant.scales import spread_scale
from slipstream.quant.scheme import Scheme, Shape

NAME = "fp8"
METHODS = ("fp8", "fbgemm_fp8", "modelopt", METHOD)
_ALGORITHMS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN")
_BLOCK = (128, 128)
_WAY_OUT = "take another quantisation of the model, or the unquantised one with quant='int8'"


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    method, block, note = config.get("quant_method"), None, "activations are not quantised"
    if method == METHOD:
        weights = weights_of(config, ("float-quantized", "naive-quantized"), "float")
        if weights is None:
            return None
        if weights.get("num_bits", 8) != 8:
            raise refuse("num_bits", weights["num_bits"], "8")
        block, note = _pair(weights.get("block_structure")), note_of(config)
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
    )


def unpack(stored: Mapping[str, Tensor], shape: Shape | None = None, *, block: tuple[int, int] | None = _BLOCK) -> Tensor:
    """The weights, fp32 [n, k].

    Raises:
        CheckpointError: there is no scale, or it does not fit.
    """
    scale = stored.get("weight_scale", stored.get("weight_scale_inv"))
    if scale is None:
        raise CheckpointError("has neither weight_scale nor weight_scale_inv; fetch the whole checkpoint")
    values = stored["weight"].float()
    return values * spread_scale(scale.float(), values.shape, block)


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    if isinstance(value, str):  # compressed-tensors of 2024: "128x128"
        value = [int(part) for part in value.split("x") if part.isdigit()]
    if not isinstance(value, list | tuple) or len(value) != 2 or any(type(size) is not int or size < 1 for size in value):
        raise CheckpointError(f"quantization_config: block size {value!r} must be two whole numbers; {_WAY_OUT}")
    return value[0], value[1]
