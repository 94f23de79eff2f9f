"""Mixture of experts: each row goes to a few of many gated layers; their weighted outputs are summed in the order of the experts'
numbers, then the shared part is added. Must not know norms, residuals or other layers.

Every expert computes the rows that chose it as one gathered batch (ops/reference/experts.py, `routed`). Its kernels give a row the
same bits in every batch, and what a row sums does not depend on who else is there; nobody is dropped (docs/numerics.md, section 2).
"""

from functools import partial

import torch
from torch import Tensor

from slipstream.arch.spec import MoeSpec
from slipstream.cost import WeightFormat
from slipstream.model.ffns.gated import OPS
from slipstream.model.linear import Linear
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import Op
from slipstream.weights.source import Weights


class Ffn:
    """One sub-layer of experts."""

    def __init__(self, spec: MoeSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._spec, self._route, self._routed = spec, kernels.route, kernels.routed
        self.RECORDS = kernels.recorded("routed")
        self._gated = _activation(spec, kernels)
        self._router = Linear(weights, [f"{prefix}.router"], spec.bias, "fp32", kernels)
        self._correction = weights.get(f"{prefix}.router.correction") if spec.router.correction else None
        names = [f"{prefix}.experts.{number}" for number in range(spec.router.experts)]
        self._experts = [_Gated(spec.width, name, weights, format, kernels, spec.bias) for name in names]
        self._shared = _Gated(spec.shared, f"{prefix}.shared", weights, format, kernels) if spec.shared else None
        self._add = kernels.add if spec.shared else None
        self._shared_gate = Linear(weights, [f"{prefix}.shared_gate"], False, "fp32", kernels) if spec.shared_gate else None
        self._gate_rows = kernels.gate_rows if spec.shared_gate else None
        self.reads, self.types = torch.float32, {}  # the router reads what the experts read, in full

    def run(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor]) -> None:
        """out [rows, hidden] from x [rows, hidden]."""
        experts, shares = scratch["experts"].view(torch.int32), scratch["shares"]  # [rows, chosen]
        self._router(x, scratch["scores"])
        self._route(scratch["scores"], self._correction, self._spec.router, experts, shares)
        layers = [partial(expert, scratch=scratch, gated=self._gated) for expert in self._experts]
        self._routed(x, experts, shares, layers, scratch["gathered"], scratch["part"], out)
        if self._shared is not None:
            part = scratch["part"]
            self._shared(x, part, scratch, self._gated)
            if self._shared_gate is not None:
                self._shared_gate(x, scratch["gate"])
                self._gate_rows(part, scratch["gate"])
            self._add(out, part)


def _activation(spec: MoeSpec, kernels: Kernels) -> Op:
    """(gate and up [rows, 2 f], out [rows, f])."""
    if spec.activation == "clamped":
        return partial(kernels.gated_clamped, limit=spec.limit, slope=spec.slope)
    return getattr(kernels, OPS[spec.activation])


class _Gated:
    """One gated layer of any inner size that uses the scratch of the whole.

    Args:
        width: inner size.
        name: its parameters' names begin so.
    """

    def __init__(self, width: int, name: str, weights: Weights, format: WeightFormat, kernels: Kernels, bias: bool = False):
        self._width = width
        self._gate_up = Linear(weights, [f"{name}.gate", f"{name}.up"], bias, format, kernels)
        self._down = Linear(weights, [f"{name}.down"], bias, format, kernels)

    def __call__(self, x: Tensor, out: Tensor, scratch: dict[str, Tensor], gated: Op) -> None:
        rows = len(x)
        inner = scratch["inner"].view(-1)[: 2 * rows * self._width].view(rows, 2 * self._width)
        activated = scratch["activated"].view(-1)[: rows * self._width].view(rows, self._width)
        self._gate_up(x, inner)
        gated(inner, activated)
        self._down(activated, out)
