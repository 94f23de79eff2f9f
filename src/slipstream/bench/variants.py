"""Other ways to hold the same model, or to compute it, for comparing what rounding does to it.

    Twin          the model with outlier channels: the same function, harder to round (docs/benchmarks.md)
    AsQ4_0        the model with its matrices rounded by the `gguf` package, not by us
    Unpacked      the model with its matrices rounded to a format of ours, and given as the numbers that those mean
    CodedRows     CPU kernels whose linear layers see activations as those of a GPU do that round them to e4m3

Owns nothing but these; must not know texts or how quality is measured.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from slipstream.arch import ModelSpec, tensors
from slipstream.base import registry
from slipstream.bench.made_weights import gguf_package
from slipstream.cost import Mix
from slipstream.ops.dispatch import Kernels
from slipstream.ops.reference.linear import e4m3_rows
from slipstream.ops.types import LinearKernel
from slipstream.quant.catalogue import FORMATS
from slipstream.quant.formats import q4_0
from slipstream.weights.source import Weights

CHANNELS = 4  # that stick out, the same in all layers, as in trained models (Dettmers et al. 2022)
SEED = 1  # of their choice
INNER = ("o", "down", "kv")  # layers that read what their own sub-layer made, never the normed stream


class Twin:
    """`Weights` of a model with outlier channels: what norms return is `factor` times as large in a few channels, and the layers
    that read it have that much smaller weights there. A function of the model is not changed, only how well it can be rounded.
    The head is a matrix of its own, since a tied one could not be smaller than its table.

    Args:
        weights: the model; its table stays as it is.
        factor: 1 for the model itself.
    """

    def __init__(self, weights: Weights, factor: float):
        self.spec = replace(weights.spec, tied=False)
        self.format = self.as_stored = weights.format
        self.files, self.shelf, self.metadata = (), None, {}
        self._weights, self._tied = weights, weights.spec.tied
        picked = torch.randperm(self.spec.hidden, generator=torch.Generator().manual_seed(SEED))[:CHANNELS]
        self._stretch = torch.ones(self.spec.hidden).index_fill_(0, picked, factor)
        self._readers = readers(self.spec)

    def get(self, name: str) -> Tensor:
        """See `Weights.get`; layers that read a norm come as fp32."""
        values = self._weights.get("embed.weight" if self._tied and name == "head.weight" else name)
        stem = name.rpartition(".")[0]
        if stem == "norm" or stem.endswith(".norm"):
            return values * self._stretch
        return values.float() / self._stretch if name in self._readers else values

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""


def readers(spec: ModelSpec) -> set[str]:
    """Names of the matrices that read the normed stream."""
    named = {tensor.name: tensor for tensor in tensors(spec)}
    out = {"head.weight"}
    for name, tensor in named.items():
        stem = name.removesuffix(".weight")
        if tensor.role in ("linear", "router") and spec.layers[int(stem.split(".")[1])].pre_norm:
            out |= set() if stem.rpartition(".")[2] in INNER or f"{stem}_a.weight" in named else {name}
    return out


class AsQ4_0:
    """`Weights` of an untied model whose linear layers and head are Q4_0 blocks as the `gguf` package makes them; they run as they are.

    Raises:
        InputError: `gguf` is not installed.
    """

    def __init__(self, weights: Weights):
        self._gguf, self._weights = gguf_package(), weights
        named = tuple((tensor.name, q4_0.OP) for tensor in tensors(weights.spec) if tensor.role in ("linear", "head"))
        self.spec, self.format, self.as_stored = weights.spec, weights.format, Mix(weights.format, named)
        self.files, self.shelf, self.metadata, self.get = (), None, {}, weights.get

    def stored(self, name: str) -> tuple[str, dict[str, Tensor]] | None:
        """See `Weights.stored`."""
        if name not in self.as_stored:
            return None
        blocks = self._gguf.quants.quantize(self.get(name).float().numpy(), self._gguf.GGMLQuantizationType.Q4_0)
        return q4_0.OP, q4_0.lay_out({"blocks": torch.from_numpy(blocks)})


class Unpacked:
    """`Weights` of an untied model whose linear layers and head are rounded to a format and come as what that means, fp32.

    Args:
        format: one that weights can be converted to.
    """

    def __init__(self, weights: Weights, format: str):
        self.spec, self.format, self.as_stored = weights.spec, weights.format, "fp32"
        self.files, self.shelf, self.metadata = (), None, {}
        self._weights, self._format = weights, registry.load(FORMATS, format)
        self._rounded = {tensor.name for tensor in tensors(weights.spec) if tensor.role in ("linear", "head")}

    def get(self, name: str) -> Tensor:
        """See `Weights.get`."""
        values = self._weights.get(name)
        return self._format.unpack(self._format.quantise(values)) if name in self._rounded else values

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""


class CodedRows(Kernels):
    """Kernels of a CPU, but linear layers round each row of x to e4m3 first, by one scale."""

    def linear(self, format: str) -> LinearKernel:
        """See `Kernels.linear`."""
        return _Coded(super().linear(format))

    def tape(self) -> None:
        """Nothing is recorded here: rows are rounded by torch."""


@dataclass(frozen=True, slots=True)
class _Coded:
    kernel: LinearKernel

    @property
    def name(self) -> str:
        return self.kernel.name

    def prepare(self, stored: dict[str, Tensor]) -> Any:
        return self.kernel.prepare(stored)

    def run(self, x: Tensor, prepared: Any, bias: Tensor | None, out: Tensor) -> None:
        codes, step = e4m3_rows(x)
        self.kernel.run(codes * step, prepared, bias, out)
