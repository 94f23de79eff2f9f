"""A GGUF file as a checkpoint: its tensors under the names of the file. Must not know the layout of any block type or architecture."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.files import gguf as files
from slipstream.files.safetensors import Entry
from slipstream.quant.catalogue import gguf_kinds, reader_of_gguf
from slipstream.weights.gguf.config import kind_of, to_config
from slipstream.weights.mapping import FLOATS, TYPES, Mappings

Shape = tuple[int, ...]
_LAYER = re.compile(r"blk\.(\d+)\.")


class GgufCheckpoint:
    """`Stored` of an open GGUF file.

    Args:
        path: the file; the first one of a split model.

    Raises:
        CheckpointError: it is damaged, of an unknown architecture, or holds a block type that is not supported.
    """

    config = "the metadata"
    note = ""

    def __init__(self, path: Path | str):
        file = files.read(path)
        self.file, self.metadata, self._entries = file.file, file.metadata, file.tensors
        self.files = tuple({entry.file: None for entry in file.tensors.values()})
        self._mappings = Mappings()
        shapes = {name: entry.shape for name, entry in file.tensors.items()}
        try:
            self.layout: ModuleType = kind_of(file.metadata)
            self._check_types()
            self.config_json: Mapping[str, Any] = to_config(file.metadata, shapes, lambda name: self._plain(name).flatten().tolist())
            self._made, self.shapes = self._find_made(shapes)
        except CheckpointError as error:
            raise CheckpointError(f"{self.file}: {error}") from error
        parts = {source for sources, _ in self._made.values() for source in sources}
        self.shapes |= {name: shape for name, shape in shapes.items() if name not in parts}

    def kind(self, name: str) -> str:
        """See `Stored.kind`."""
        if name not in self._entries:
            kinds = {self.kind(source) for source in self._made[name][0]}
            return kinds.pop() if len(kinds) == 1 else "F32"
        dtype = self._entries[name].dtype
        return dtype if dtype in FLOATS else reader_of_gguf(dtype).NAME

    def native(self, name: str) -> str | None:
        """See `Stored.native`."""
        entry = self._entries.get(name)
        return None if entry is None or entry.dtype in FLOATS else getattr(reader_of_gguf(entry.dtype), "OP", None)

    def laid_out(self, name: str, number: int | None = None) -> dict[str, Tensor]:
        """See `Stored.laid_out`."""
        entry = self._entries[name]
        return reader_of_gguf(entry.dtype).lay_out({"blocks": self._blocks(entry, number)[0]})

    def tensor(self, name: str, number: int | None = None) -> Tensor:
        """See `Stored.tensor`."""
        if name not in self._entries:
            sources, make = self._made[name]
            whole = make(*(self._plain(source) for source in sources))
            return whole if number is None else whole[number]
        entry = self._entries[name]
        if entry.dtype in FLOATS:
            whole = self._mappings.view(entry, TYPES[entry.dtype], entry.shape)
            return whole if number is None else whole[number]
        blocks, shape = self._blocks(entry, number)
        return reader_of_gguf(entry.dtype).unpack({"blocks": blocks}).view(shape)

    def _plain(self, name: str) -> Tensor:
        """Any stored tensor, in fp32."""
        return self.tensor(name).float()

    def _blocks(self, entry: Entry, number: int | None) -> tuple[Tensor, Shape]:
        """(u8 [rows, bytes of a row], shape of the weights in them); of a stack only what is asked for."""
        rows = math.prod(entry.shape[:-1])
        blocks = self._mappings.view(entry, torch.uint8, (rows, (entry.end - entry.start) // rows))
        shape = entry.shape
        if number is not None:
            shape, height = shape[1:], rows // shape[0]
            blocks = blocks[number * height : (number + 1) * height]
        return blocks, shape

    def _check_types(self) -> None:
        for name, entry in self._entries.items():
            if entry.dtype not in FLOATS and reader_of_gguf(entry.dtype) is None:
                known = ", ".join([*FLOATS, *gguf_kinds()])
                raise CheckpointError(f"tensor {name!r} is {entry.dtype}, not supported; supported: {known}; take a file of such a type")

    def _find_made(self, shapes: Mapping[str, Shape]) -> tuple[dict[str, tuple[tuple[str, ...], Any]], dict[str, Shape]]:
        """Tensors that the kind makes out of others: name -> (sources, function), name -> shape. A file may hold what is made as well."""
        layers = {match[1] for name in shapes if (match := _LAYER.match(name))}
        made, made_shapes = {}, {}
        for pattern, (sources, make) in getattr(self.layout, "MADE", {}).items():
            for name, parts in ((pattern.format(layer), tuple(source.format(layer) for source in sources)) for layer in layers):
                if not set(parts) <= set(shapes):
                    continue
                try:
                    made_shapes[name] = tuple(make(*(torch.empty(shapes[part], device="meta") for part in parts)).shape)
                except (RuntimeError, IndexError) as error:
                    raise CheckpointError(f"tensors {', '.join(parts)} do not fit together ({error}); fetch the file again") from error
                made[name] = parts, make
        return made, made_shapes
