"""Plain feed-forward layer: down(activation(up(x))). Must not know norms, residuals or other layers."""

from torch import Tensor

from slipstream.arch.spec import PlainFfnSpec
from slipstream.cost import WeightFormat
from slipstream.model.linear import Linear
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights


class Ffn:
    """One plain feed-forward sub-layer."""

    RECORDS = True

    def __init__(self, spec: PlainFfnSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._up = Linear(weights, [f"{prefix}.up"], spec.bias, format, kernels)
        self._down = Linear(weights, [f"{prefix}.down"], spec.bias, format, kernels)
        self._activate = getattr(kernels, spec.activation)

        self.reads, self.types = self._up.reads, {}

    def run(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor]) -> None:
        """out [rows, hidden] from x [rows, hidden]."""
        up = scratch["up"]
        self._up(x, up)
        self._activate(up)
        self._down(up, out)
