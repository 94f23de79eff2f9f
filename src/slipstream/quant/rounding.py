"""Rounding of weights by the native module, where there is one: the same numbers as the torch code of the formats, many times faster."""

import torch
from torch import Tensor

from slipstream.base import native

_KINDS = (torch.float32, torch.bfloat16)


def rounded(format: str, weight: Tensor, group: int = 0) -> dict[str, Tensor] | None:
    """Stored tensors ("weight", "scale") of weight [n, k]; None where the format's own code has to do it.

    Args:
        format: "int8", "q8_0" or one of int4.
        group: inputs that share a scale; 0 for all of an output.
    """
    if native.module is None or weight.device.type != "cpu" or weight.dtype not in _KINDS:
        return None
    weight = weight.contiguous()
    n, k = weight.shape
    quants = torch.empty(n, k // 2, dtype=torch.uint8) if format.startswith("int4") else torch.empty(n, k, dtype=torch.int8)
    scale = torch.empty(n, k // group, dtype=torch.float16) if group else torch.empty(n)
    native.module.round_weights(format, weight.data_ptr(), weight.dtype is torch.bfloat16, quants.data_ptr(), scale.data_ptr(), n, k)
    return {"weight": quants, "scale": scale}
