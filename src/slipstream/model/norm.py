"""Norm: one norm of the model with its weights. Owns which kernel serves it; must not know where in a layer it stands."""

from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import Norming
from slipstream.weights.source import Weights


class Norm:
    """RMSNorm or LayerNorm over the hidden size, as the model has it.

    Args:
        spec: the model.
        name: canonical name without ".weight".
        weights: whom to ask for parameters.
        kernels: who computes.

    Attributes:
        halves: whether `within` may be called.
    """

    def __init__(self, spec: ModelSpec, name: str, weights: Weights, kernels: Kernels):
        layer = spec.norm == "layer"
        self._run = kernels.layer_norm if layer else kernels.norm
        self._weights = [weights.get(f"{name}.{part}") for part in (("weight", "bias") if layer else ("weight",))]
        self._eps = spec.norm_eps
        self.halves = not layer

    def __call__(self, x: Tensor, out: Tensor, residual: Tensor | None = None) -> None:
        """out = norm(x), all [rows, hidden]; with a residual, x += residual first."""
        self._run(x, *self._weights, self._eps, out, residual)

    def within(self, stream: Tensor, scaled: Tensor, squares: Tensor) -> Norming:
        """The norm in two halves, for the linear layers on both sides; all [rows, hidden]."""
        return Norming(stream, self._weights[0], self._eps, scaled, squares)
