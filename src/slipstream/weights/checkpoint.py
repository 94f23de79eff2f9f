"""Checkpoint: the tensors of safetensors files as they lie in the file mapping. Nothing is read until it is used.

Owns views. Must not know models, canonical names or what is missing.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import read_file, read_folder
from slipstream.weights.mapping import FLOATS, TYPES, Mappings


class Checkpoint:
    """`Stored` of an open checkpoint folder.

    Args:
        path: a folder that holds model.safetensors or shards with their index, or such a file.

    Attributes:
        entries: tensor name -> where it lies.
    """

    config = "config.json"
    layout = None
    note = ""

    def __init__(self, path: Path | str):
        self.entries = read_file(Path(path)) if Path(path).is_file() else read_folder(path)
        self.shapes = {name: entry.shape for name, entry in self.entries.items()}
        self.files = tuple({entry.file: None for entry in self.entries.values()})
        self.metadata: dict[str, Any] = {}  # such files say nothing besides
        self._mappings = Mappings()

    def kind(self, name: str) -> str:
        """See `Stored.kind`.

        Raises:
            CheckpointError: it is not a float of 16 or 32 bits.
        """
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            raise CheckpointError(
                f"{entry.file}: tensor {name!r} is {entry.dtype}; supported: {', '.join(FLOATS)}. config.json names no "
                "quantization_config that explains it; take the unquantised checkpoint and let quant='int8' quantise it"
            )
        return entry.dtype

    def native(self, name: str) -> None:
        """See `Stored.native`: no kernel takes these as they are."""

    def tensor(self, name: str, number: int | None = None) -> Tensor:
        """See `Stored.tensor`. Read-only view into the file, in the type of the file.

        Raises:
            CheckpointError: its type is not a float of 16 or 32 bits, or the file cannot be mapped.
        """
        self.kind(name)
        return self.raw(name) if number is None else self.raw(name)[number]

    def raw(self, name: str) -> Tensor:
        """A tensor of any type, integers and packed numbers too.

        Raises:
            CheckpointError: torch has no such type, or the file cannot be mapped.
        """
        entry = self.entries[name]
        if entry.dtype not in TYPES:
            raise CheckpointError(f"{entry.file}: tensor {name!r} is {entry.dtype}; supported: {', '.join(TYPES)}. Take another checkpoint")
        return self._mappings.view(entry, TYPES[entry.dtype], entry.shape)
