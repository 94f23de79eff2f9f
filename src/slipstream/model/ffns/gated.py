"""Gated feed-forward layer: down(activation(gate(x)) * up(x)). Must not know norms, residuals or other layers."""

from torch import Tensor

from slipstream.arch.spec import FfnSpec
from slipstream.cost import WeightFormat
from slipstream.model.linear import Linear, plain
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights

OPS = {"silu": "gated", "gelu": "gated_gelu", "gelu_tanh": "gated_gelu_tanh"}


class Ffn:
    """One gated feed-forward sub-layer."""

    RECORDS = True

    def __init__(self, spec: FfnSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._gate_up = Linear(weights, [f"{prefix}.gate", f"{prefix}.up"], spec.bias, format, kernels)
        self._down = Linear(weights, [f"{prefix}.down"], spec.bias, format, kernels)
        self._gated = getattr(kernels, OPS[spec.activation])

        self.reads, self.types = self._gate_up.reads, {"gated": plain(self._down.reads)}

    def run(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor]) -> None:
        """out [rows, hidden] from x [rows, hidden]."""
        gate_up, gated = scratch["gate_up"], scratch["gated"]
        self._gate_up(x, gate_up)
        self._gated(gate_up, gated)
        self._down(gated, out)
