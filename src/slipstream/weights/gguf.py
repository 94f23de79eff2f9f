"""A GGUF file as a checkpoint: its tensors under the names that `transformers` gives them, in the order of rows used here.

Owns the undoing of what llama.cpp's converter does to weights. Must not know the layout of any block type.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.files import gguf as files
from slipstream.files.safetensors import Entry
from slipstream.quant.catalogue import gguf_kinds, reader_of_gguf
from slipstream.weights.gguf_config import ROPE_FACTORS, checkpoint_name, kind_of, to_config
from slipstream.weights.mapping import FLOATS, TYPES, Mappings


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
        self.file, self.metadata = file.file, file.metadata
        self._mappings = Mappings()
        try:
            self._kind = kind_of(file.metadata)
            self._entries = {checkpoint_name(self._kind, name): entry for name, entry in file.tensors.items() if name != ROPE_FACTORS}
            self._check_types()
            factors = self._floats(file.tensors[ROPE_FACTORS]).tolist() if ROPE_FACTORS in file.tensors else None
            shapes = {name: entry.shape for name, entry in file.tensors.items()}
            self.config_json: Mapping[str, Any] = to_config(file.metadata, shapes, factors)
        except CheckpointError as error:
            raise CheckpointError(f"{self.file}: {error}") from error
        self.shapes = {name: entry.shape for name, entry in self._entries.items()}

    def kind(self, name: str) -> str:
        """See `Stored.kind`."""
        dtype = self._entries[name].dtype
        return dtype if dtype in FLOATS else reader_of_gguf(dtype).NAME

    def native(self, name: str) -> str | None:
        """See `Stored.native`."""
        dtype = self._entries[name].dtype
        return None if dtype in FLOATS else getattr(reader_of_gguf(dtype), "OP", None)

    def laid_out(self, name: str, number: int | None = None) -> dict[str, Tensor]:
        """See `Stored.laid_out`."""
        entry = self._entries[name]
        blocks = self._blocks(entry)
        if number is not None:
            each = entry.shape[1]
            blocks = blocks[number * each : (number + 1) * each]
        parts = reader_of_gguf(entry.dtype).lay_out({"blocks": blocks})
        return {part: self._ordered(name, tensor) for part, tensor in parts.items()}

    def tensor(self, name: str, number: int | None = None) -> Tensor:
        """See `Stored.tensor`."""
        entry = self._entries[name]
        plain = entry.dtype in FLOATS
        whole = self._ordered(name, self._mappings.view(entry, TYPES[entry.dtype], entry.shape) if plain else self._floats(entry))
        return whole if number is None else whole[number]

    def _floats(self, entry: Entry) -> Tensor:
        """Any tensor in fp32."""
        if entry.dtype in FLOATS:
            return self._mappings.view(entry, TYPES[entry.dtype], entry.shape).float()
        return reader_of_gguf(entry.dtype).unpack({"blocks": self._blocks(entry)}).view(entry.shape)

    def _blocks(self, entry: Entry) -> Tensor:
        """A quantised tensor, u8 [rows, bytes of a row]."""
        rows = math.prod(entry.shape[:-1])
        return self._mappings.view(entry, torch.uint8, (rows, (entry.end - entry.start) // rows))

    def _check_types(self) -> None:
        for name, entry in self._entries.items():
            if entry.dtype not in FLOATS and reader_of_gguf(entry.dtype) is None:
                known = ", ".join([*FLOATS, *gguf_kinds()])
                raise CheckpointError(f"tensor {name!r} is {entry.dtype}, not supported; supported: {known}; take a file of such a type")

    def _ordered(self, name: str, stored: Tensor) -> Tensor:
        """Undoes the converter's order of q and k rows. For rope over neighbours it puts row i of the first half of a head
        before row i of the second: [heads, 2, d / 2] became [heads, d / 2, 2]."""
        if not self._kind.interleaved:
            return stored
        field = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
        if field is None:
            return stored
        heads = self.config_json.get(field, self.config_json.get("num_attention_heads"))
        if type(heads) is not int or heads < 1 or stored.shape[0] % (2 * heads):
            raise CheckpointError(f"{self.file}: {field}={heads!r} does not fit {stored.shape[0]} rows of {name!r}; fetch the file again")
        return stored.view(heads, -1, 2, *stored.shape[1:]).transpose(1, 2).reshape(stored.shape)
