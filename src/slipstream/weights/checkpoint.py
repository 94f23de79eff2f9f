"""Checkpoint: the tensors of safetensors files as they lie in the file mapping. Nothing is read until it is used.

Owns mappings and views. Must not know models, canonical names or what is missing.
"""

import mmap
import warnings
from pathlib import Path

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import read_folder

FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Checkpoint:
    """An open checkpoint folder.

    Args:
        folder: holds model.safetensors or shards with their index.

    Attributes:
        entries: tensor name -> where it lies.
    """

    def __init__(self, folder: Path | str):
        self.entries = read_folder(folder)
        self._maps: dict[Path, mmap.mmap] = {}

    def tensor(self, name: str) -> Tensor:
        """A read-only view into the file, in the type of the file; writing to it ends the process.

        Raises:
            CheckpointError: its type is not a float of 16 or 32 bits, or the file cannot be mapped.
        """
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{entry.file}: tensor {name!r} is {entry.dtype}; supported: {', '.join(FLOATS)}. "
                "Take the unquantised checkpoint and let quant='int8' quantise it"
            )
        dtype = FLOATS[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        if entry.start % dtype.itemsize:
            raw = bytearray(self._map(entry.file)[entry.start : entry.end])  # unaligned in the file: a copy
            return torch.frombuffer(raw, dtype=dtype).view(entry.shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            count = (entry.end - entry.start) // dtype.itemsize
            return torch.frombuffer(self._map(entry.file), dtype=dtype, count=count, offset=entry.start).view(entry.shape)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise CheckpointError(f"{file}: cannot be mapped ({error.strerror})") from error
        return self._maps[file]
