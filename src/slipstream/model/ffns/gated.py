"""Gated feed-forward layer: down(activation(gate(x)) * up(x)). Must not know norms, residuals or other layers."""

import torch
from torch import Tensor

from slipstream.arch.spec import FfnSpec
from slipstream.cost import WeightFormat
from slipstream.model.linear import Linear, linear_format, plain, together
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import GateUpKernel, Norming, reads_of
from slipstream.weights.source import Weights

OPS = {"silu": "gated", "gelu": "gated_gelu", "gelu_tanh": "gated_gelu_tanh"}


class Ffn:
    """One gated feed-forward sub-layer."""

    RECORDS = True

    def __init__(self, spec: FfnSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._inner = _inner(spec, [f"{prefix}.gate", f"{prefix}.up"], weights, format, kernels)
        self._down = Linear(weights, [f"{prefix}.down"], spec.bias, format, kernels)

        self.reads, self.types = self._inner.reads, {"gated": plain(self._down.reads)}

    def fuses(self, rows: int) -> bool:
        """Whether x and out may be Normings for so many rows."""
        return self._inner.fuses(rows) and self._down.fuses(rows)

    def run(self, x: Tensor | Norming, out: Tensor | Norming, scratch: dict[str, Tensor]) -> None:
        """out [rows, hidden] from x [rows, hidden]."""
        gated = scratch["gated"]
        self._inner(x, scratch["gate_up"], gated)
        self._down(gated, out)


class _Apart:
    """activation(gate(x)) * up(x): a linear layer, then a gate."""

    def __init__(self, spec: FfnSpec, names: list[str], weights: Weights, format: WeightFormat, kernels: Kernels):
        self._linear, self._gated = Linear(weights, names, spec.bias, format, kernels), getattr(kernels, OPS[spec.activation])
        self.reads = self._linear.reads

    def fuses(self, rows: int) -> bool:
        """Whether x may be a Norming for so many rows."""
        return self._linear.fuses(rows)

    def __call__(self, x: Tensor | Norming, products: Tensor, out: Tensor) -> None:
        """out [rows, inner] from x [rows, hidden]; by `products` [rows, 2 * inner]."""
        self._linear(x, products)
        self._gated(products, out)


class _AtOnce:
    """The same by a kernel for both."""

    def __init__(self, spec: FfnSpec, names: list[str], weights: Weights, format: WeightFormat, kernel: GateUpKernel):
        bias = torch.cat([weights.get(f"{name}.bias") for name in names]) if spec.bias else None
        self._kernel, self._activation = kernel, spec.activation
        self._prepared = kernel.prepare(together(weights, names, format), bias)
        self.reads = reads_of(kernel)

    def fuses(self, rows: int) -> bool:
        """See _Apart."""
        return self._kernel.fuses(rows, self._prepared)

    def __call__(self, x: Tensor | Norming, products: Tensor, out: Tensor) -> None:
        """See _Apart."""
        self._kernel.run(x, self._prepared, self._activation, products, out)


def _inner(spec: FfnSpec, names: list[str], weights: Weights, format: WeightFormat, kernels: Kernels) -> _Apart | _AtOnce:
    """By one kernel where the weights have one format, which has one."""
    formats = {linear_format(f"{name}.weight", format) for name in names}
    kernel = kernels.gate_up(formats.pop()) if len(formats) == 1 else None
    if kernel is None or spec.width % kernel.unit:
        return _Apart(spec, names, weights, format, kernels)
    return _AtOnce(spec, names, weights, format, kernel)
