"""Embedding: from token ids to rows. Owns whether the table is plain, or packed in one piece with a head that is tied to it."""

from torch import Tensor

from slipstream.cost import Mix, WeightFormat
from slipstream.model.linear import Linear
from slipstream.ops.dispatch import Kernels
from slipstream.weights.source import Weights

NAME = "embed"


class Embedding:
    """The table of a model.

    Args:
        weights: whom to ask for it.
        format: of the model's linear layers; where it has a kernel's format for the table, that is kept.
        kernels: who computes.

    Attributes:
        layer: the table as a linear layer, if it is packed; a tied head is the same.
    """

    def __init__(self, weights: Weights, format: WeightFormat, kernels: Kernels):
        packed = isinstance(format, Mix) and f"{NAME}.weight" in format
        layer = Linear(weights, [NAME], False, format, kernels) if packed else None
        self.layer = layer if layer is not None and layer.gathers else None
        self._table = weights.get(f"{NAME}.weight") if self.layer is None else None  # [vocab, hidden]
        self._kernels = kernels

    def __call__(self, ids: Tensor, out: Tensor) -> None:
        """ids [rows] -> out [rows, hidden]."""
        if self.layer is not None:
            self.layer.gather(ids, out)
        else:
            self._kernels.embed(ids, self._table, out)
