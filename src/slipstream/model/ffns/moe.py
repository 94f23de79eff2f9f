"""Mixture of experts: each row goes to a few of many gated layers; their weighted outputs are summed in the order of the experts'
numbers, then the shared part is added. Must not know norms, residuals or other layers.

Experts run at once where a device has a kernel for their weights (ops/types.py, ExpertsKernel). Else every expert computes the rows
that chose it as one gathered batch (ops/reference/experts.py, `routed`). Either way what a row sums does not depend on who else is
there; nobody is dropped (docs/numerics.md, section 2).
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from slipstream.arch.spec import MoeSpec
from slipstream.cost import WeightFormat
from slipstream.model.ffns.gated import OPS
from slipstream.model.linear import Linear, linear_format, stored_of
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import Activation, ExpertsKernel, Op
from slipstream.weights.source import Weights


class Ffn:
    """One sub-layer of experts."""

    def __init__(self, spec: MoeSpec, prefix: str, weights: Weights, format: WeightFormat, kernels: Kernels):
        self._spec, self._route, self._routed = spec, kernels.route, kernels.routed
        self._gated = _activation(spec, kernels)
        self._router = Linear(weights, [f"{prefix}.router"], spec.bias, "fp32", kernels)
        self._correction = weights.get(f"{prefix}.router.correction") if spec.router.correction else None
        names = [f"{prefix}.experts.{number}" for number in range(spec.router.experts)]
        kernel = _together(names, format, kernels)
        self._experts = (
            [_Gated(spec.width, name, weights, format, kernels, spec.bias) for name in names]
            if kernel is None
            else _Together(spec, names, weights, format, kernel)
        )
        self.RECORDS = kernel is not None or kernels.recorded("routed")
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
        if isinstance(self._experts, _Together):
            self._experts(x, experts, shares, out)
        else:
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


def _together(names: Sequence[str], format: WeightFormat, kernels: Kernels) -> ExpertsKernel | None:
    """The kernel for all experts at once, if their weights have one format and it has such a kernel."""
    formats = {linear_format(f"{name}.{part}.weight", format) for name in names for part in ("gate", "up", "down")}
    return kernels.experts(formats.pop()) if len(formats) == 1 else None


class _Together:
    """All experts in one kernel's packing."""

    def __init__(self, spec: MoeSpec, names: Sequence[str], weights: Weights, format: WeightFormat, kernel: ExpertsKernel):
        self._kernel, self._activation = kernel, Activation(spec.activation, spec.limit, spec.slope)
        parts = ("gate", "up"), ("down",)
        stored = [_stacked(weights, names, some, format) for some in parts]
        biases = [
            torch.stack([torch.cat([weights.get(f"{name}.{part}.bias") for part in some]) for name in names]) for some in parts if spec.bias
        ]
        self._prepared = kernel.prepare(*stored, biases)

    def __call__(self, x: Tensor, experts: Tensor, shares: Tensor, out: Tensor) -> None:
        self._kernel.run(x, experts, shares, self._prepared, self._activation, out)


def _stacked(weights: Weights, names: Sequence[str], parts: Sequence[str], format: WeightFormat) -> dict[str, Tensor]:
    """These layers of all experts, one expert behind the other; filled one by one, so that only one expert is there twice."""
    out: dict[str, Tensor] = {}
    for number, name in enumerate(names):
        layers = [stored_of(weights, f"{name}.{part}.weight", format) for part in parts]
        for key in layers[0]:
            one = torch.cat([layer[key] for layer in layers])
            if number == 0:
                out[key] = one.new_empty(len(names), *one.shape)
            out[key][number] = one
    return out


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
