"""Tensors of a PyTorch file (.bin, .pt), which trained heads are often published as. Owns that nothing of it is ever run: only tensors
are read, by torch's weights-only unpickler, which refuses everything else. Models are never read this way.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.weights.mapping import FLOATS, TYPES

_NAMES = {dtype: name for name, dtype in TYPES.items()} | {torch.bool: "BOOL"}


class Pickled:
    """What `Checkpoint` is for safetensors, for one such file.

    Args:
        path: the file.

    Attributes:
        shapes: name -> shape of the tensor.
        files: the file.

    Raises:
        CheckpointError: it holds anything else than tensors by name, or is damaged.
    """

    def __init__(self, path: Path):
        self.files = (path,)
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{path}: cannot be read as tensors alone ({str(error).splitlines()[0]}); save them as model.safetensors"
            ) from error
        if not isinstance(found, dict) or not all(type(name) is str and isinstance(tensor, Tensor) for name, tensor in found.items()):
            raise CheckpointError(f"{path}: must hold tensors by name and nothing else; save them as model.safetensors")
        self._tensors: dict[str, Tensor] = found
        self.shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}

    def kind(self, name: str) -> str:
        """See `Checkpoint.kind`."""
        kind = _NAMES.get(self._tensors[name].dtype)
        if kind not in FLOATS:
            raise CheckpointError(f"{self.files[0]}: tensor {name!r} is {self._tensors[name].dtype}; supported: {', '.join(FLOATS)}")
        return kind

    def tensor(self, name: str) -> Tensor:
        """See `Checkpoint.tensor`."""
        self.kind(name)
        return self._tensors[name]

    def raw(self, name: str) -> Tensor:
        """See `Checkpoint.raw`."""
        return self._tensors[name]
