"""Weights: the one question a model asks of whatever holds its parameters; Stored: what a checkpoint answers. No files here."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from slipstream.arch.spec import ModelSpec
from slipstream.cost import WeightFormat
from slipstream.weights.shelf import Shelf


class Weights(Protocol):
    """Parameters of one model.

    Attributes:
        spec: the model that they belong to; every name of `arch.tensors(spec)` can be had.
        format: what `get` makes of linear layers and embedding, a name in quant/formats: "bf16" or "fp32".
        as_stored: how linear layers run without a weight being changed: `format`, or a Mix where `stored` has an answer.
        files: that they come from; none for made-up weights.
        shelf: where packed layers are kept from one start to the next, if anywhere; for whoever packs.
        metadata: what their file says besides, a vocabulary for instance; empty where it says nothing.
    """

    spec: ModelSpec
    format: str
    as_stored: WeightFormat
    files: tuple[Path, ...]
    shelf: Shelf | None
    metadata: Mapping[str, Any]

    def get(self, name: str) -> Tensor:
        """One parameter by its canonical name, in the shape of its TensorSpec, on the device that its holder was made for.

        Embedding and linear layers come as bf16 or fp32 and may lie in a read-only file mapping (never write to them);
        norms and biases come as fp32.
        """

    def stored(self, name: str) -> tuple[str, dict[str, Tensor]] | None:
        """A linear layer as a kernel can run it without changing a weight: (the kernel's format, its tensors as ops/types.py
        names them); None where only `get` has it."""


class Stored(Protocol):
    """An open checkpoint, whatever its file format.

    Attributes:
        layout: NAMES, NOT_WEIGHTS and perhaps `place` as a family has them, where the names are not those that `transformers`
            gives; None where they are.
        shapes: name -> shape of the (unpacked) tensor.
        files: all of its files that hold tensors.
        config: what describes the model, for messages: "config.json" or "the metadata".
        note: what else the user should know about how it is read; may be empty.
        metadata: see `Weights`.
    """

    layout: ModuleType | None
    shapes: Mapping[str, tuple[int, ...]]
    files: tuple[Path, ...]
    config: str
    note: str
    metadata: Mapping[str, Any]

    def kind(self, name: str) -> str:
        """How a tensor is stored: "F32", "F16", "BF16", or the name of a format in quant/formats that is unpacked."""

    def native(self, name: str) -> str | None:
        """The linear format (ops/types.py) that holds the tensor as it is; None where there is none."""

    def laid_out(self, name: str, number: int | None = None) -> dict[str, Tensor]:
        """The tensors of the format `native`, outputs along the first dimension; `number` as for `tensor`."""

    def tensor(self, name: str, number: int | None = None) -> Tensor:
        """A tensor in fp32, fp16 or bf16, possibly in a read-only file mapping; quantised ones are unpacked to fp32.

        Args:
            number: only this one of a stack, along the first dimension.
        """
