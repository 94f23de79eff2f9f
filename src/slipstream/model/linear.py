"""Linear: one linear layer of the model, packed for its kernel. Owns fusing, quantising and packing at load.

Must not know which layers there are or what the numbers mean.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from slipstream.base import registry
from slipstream.cost import Mix, WeightFormat, format_of
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import LinearKernel, Norming, reads_of
from slipstream.weights.source import Weights

FORMATS = "slipstream.quant.formats"


@dataclass(frozen=True, slots=True)
class _Part:
    """Neighbouring outputs of one format: columns `first` to `last` of the layer's output."""

    kernel: LinearKernel
    prepared: Any
    bias: Tensor | None  # [last - first]
    first: int
    last: int


class Linear:
    """out = x @ weight.T + bias, where several layers with the same input may be fused into one.

    Args:
        weights: whom to ask for parameters.
        names: canonical names without ".weight"; their outputs are concatenated in this order.
        bias: whether they have one.
        format: a name in quant/formats, or the weights' own `as_stored`.
        kernels: who computes.
        bias_of: where the bias lies, if not with the weights (a tied head's).
    """

    def __init__(
        self, weights: Weights, names: Sequence[str], bias: bool, format: WeightFormat, kernels: Kernels, bias_of: str = ""
    ):
        whole = torch.cat([weights.get(f"{name}.bias") for name in ([bias_of] if bias_of else names)]) if bias else None
        self._parts: list[_Part] = []
        for op, members in groupby(names, key=lambda name: linear_format(f"{name}.weight", format)):
            fused = list(members)
            kernel, place = kernels.linear(op), f"{'+'.join(fused)}/{op}/"
            kept = weights.shelf.get(place) if weights.shelf is not None and hasattr(kernel, "restore") else {}
            prepared, outputs = kernel.restore(kept) if kept else _pack(weights, fused, format, kernel, place)
            first = self._parts[-1].last if self._parts else 0
            last = first + outputs
            self._parts.append(_Part(kernel, prepared, None if whole is None else whole[first:last], first, last))

    def __call__(self, x: Tensor | Norming, out: Tensor | Norming) -> None:
        """x [rows, k] -> out [rows, n]. Either may be a Norming where the layer `fuses`."""
        for part in self._parts:
            columns = out if len(self._parts) == 1 else out[:, part.first : part.last]
            part.kernel.run(x, part.prepared, part.bias, columns)

    @property
    def reads(self) -> torch.dtype:
        """The type of x that loses nothing: a norm that makes x for this layer only may store it so, other ops if it is `plain`."""
        return common(reads_of(part.kernel) for part in self._parts)

    def fuses(self, rows: int) -> bool:
        """Whether the norm before, or addition and norm behind, can be part of it for so many rows."""
        part = self._parts[0]
        return len(self._parts) == 1 and hasattr(part.kernel, "fuses") and part.kernel.fuses(rows, part.prepared)

    @property
    def gathers(self) -> bool:
        """Whether rows of the weight can be had: it is one part, and its kernel can."""
        return len(self._parts) == 1 and hasattr(self._parts[0].kernel, "gather")

    def gather(self, ids: Tensor, out: Tensor) -> None:
        """Rows `ids` [rows] of the weight -> out [rows, k]."""
        (part,) = self._parts
        part.kernel.gather(ids, part.prepared, out)


def common(types: Iterable[torch.dtype]) -> torch.dtype:
    """The type that all readers of a buffer take it in: the widest of theirs."""
    return max(types, key=lambda dtype: dtype.itemsize)


def plain(reads: torch.dtype) -> torch.dtype:
    """What ops store that do not see whole rows, and so no scale of a row."""
    return torch.bfloat16 if reads.itemsize == 1 else reads


def linear_format(name: str, format: WeightFormat) -> str:
    """The linear format that a weight runs in."""
    return registry.load(FORMATS, format).OP if isinstance(format, str) else format_of(format, name)


def _pack(weights: Weights, names: list[str], format: WeightFormat, kernel: LinearKernel, place: str) -> tuple[Any, int]:
    """(what the kernel runs, outputs) of layers fused into one; kept on the shelf, if there is one."""
    fused = together(weights, names, format)
    prepared = kernel.prepare(fused)
    if weights.shelf is not None and hasattr(kernel, "save"):
        weights.shelf.put(place, kernel.save(prepared))
    return prepared, len(fused["weight"])


def together(weights: Weights, names: list[str], format: WeightFormat) -> dict[str, Tensor]:
    """What a kernel packs of weights of one format whose outputs lie behind each other."""
    tensors = [stored_of(weights, f"{name}.weight", format) for name in names]
    return tensors[0] if len(tensors) == 1 else {key: torch.cat([part[key] for part in tensors]) for key in tensors[0]}


def stored_of(weights: Weights, name: str, format: WeightFormat) -> dict[str, Tensor]:
    """What the kernel packs of one weight."""
    if isinstance(format, Mix):
        stored = weights.stored(name)
        if stored is not None:
            return stored[1]
        format = format.default
    return registry.load(FORMATS, format).quantise(weights.get(name))
