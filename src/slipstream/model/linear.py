"""Linear: one linear layer of the model, packed for its kernel. Owns fusing, quantising and packing at load.

Must not know which layers there are or what the numbers mean.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.base import registry
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights

FORMATS = "slipstream.quant.formats"


class Linear:
    """out = x @ weight.T + bias, where several layers with the same input may be fused into one.

    Args:
        weights: whom to ask for parameters.
        names: canonical names without ".weight"; their outputs are concatenated in this order.
        bias: whether they have one.
        format: a name in quant/formats.
        kernels: who computes.
        bias_of: where the bias lies, if not with the weights (a tied head's).
    """

    def __init__(self, weights: Weights, names: Sequence[str], bias: bool, format: str, kernels: Kernels, bias_of: str = ""):
        scheme = registry.load(FORMATS, format)
        kernel = kernels.linear(scheme.OP)
        parts = [scheme.quantise(weights.get(f"{name}.weight")) for name in names]
        stored = parts[0] if len(parts) == 1 else {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        self._prepared = kernel.prepare(stored)
        self._bias = torch.cat([weights.get(f"{name}.bias") for name in ([bias_of] if bias_of else names)]) if bias else None
        self._run = kernel.run

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """x [rows, k] -> out [rows, n]."""
        self._run(x, self._prepared, self._bias, out)
