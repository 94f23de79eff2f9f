"""Dummy weights: parameters of a named shape without a checkpoint, for benchmarks, tests and dry runs.

Deterministic by seed, tensor name and kind of device, made on the device when asked for, and scaled so that activations stay
near 1.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

from slipstream.arch.spec import ModelSpec, TensorSpec, tensors

_NOISE = 1_048_573  # numbers drawn per tensor; a prime, so that rows of any usual width begin at ever new places


class Dummy:
    """`Weights` that follow from a seed.

    Args:
        spec: the model.
        format: "bf16" or "fp32", the type of embedding and linear layers.
        seed: other seeds give other weights.
        device: where they are made.
        wanted: the parameters, if they are not those of a whole model.
    """

    def __init__(
        self, spec: ModelSpec, format: str = "bf16", seed: int = 0, device: str = "cpu", wanted: Sequence[TensorSpec] | None = None
    ):
        self.spec, self.format, self.as_stored = spec, format, format
        self.files, self.shelf, self.metadata = (), None, {}
        self._seed, self._device = seed, device
        self._wanted = {parameter.name: parameter for parameter in (tensors(spec) if wanted is None else wanted)}

    def get(self, name: str) -> Tensor:
        """See `Weights.get`."""
        wanted = self._wanted[name]
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(f"{self._seed}/{name}".encode()))
        if wanted.role == "norm":
            return self._empty(wanted.shape).uniform_(0.8, 1.2, generator=generator)
        if wanted.role == "bias":
            return self._empty(wanted.shape).normal_(0, 0.02, generator=generator)
        if wanted.role == "ids":  # as many tokens, spread over the vocabulary
            return torch.arange(wanted.size, device=self._device) * (self.spec.vocab // wanted.size)
        return self._matrix(wanted, generator)

    def stored(self, name: str) -> None:
        """See `Weights.stored`: these are plain numbers."""

    def _matrix(self, wanted: TensorSpec, generator: torch.Generator) -> Tensor:
        """[rows, columns]: one stretch of noise repeated over the whole matrix, every row scaled by its own factor."""
        rows, columns = wanted.shape
        dtype = torch.bfloat16 if self.format == "bf16" else torch.float32
        noise = self._empty((min(_NOISE, wanted.size),)).normal_(0, columns**-0.5, generator=generator).to(dtype)
        flat = self._empty((wanted.size,), dtype)
        for at in range(0, wanted.size, len(noise)):
            part = flat[at : at + len(noise)]
            part.copy_(noise[: len(part)])
        scale = self._empty((rows, 1)).uniform_(0.5, 1.5, generator=generator).to(dtype)
        return flat.view(rows, columns).mul_(scale)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)
