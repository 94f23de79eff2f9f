"""Weights: the one question a model asks of whatever holds its parameters. Must not know files or formats."""

from typing import Protocol

from torch import Tensor

from slipstream.arch.spec import ModelSpec


class Weights(Protocol):
    """Parameters of one model.

    Attributes:
        spec: the model that they belong to; every name of `arch.tensors(spec)` can be had.
        format: how linear layers are stored, a name in quant/formats: "bf16" or "fp32".
    """

    spec: ModelSpec
    format: str

    def get(self, name: str) -> Tensor:
        """One parameter by its canonical name, in the shape of its TensorSpec, on the device that its holder was made for.

        Embedding and linear layers come as bf16 or fp32 and may lie in a read-only file mapping (never write to them);
        norms and biases come as fp32.
        """
