"""Shelf: packed weights of one model in one format, kept on disk so that the next start maps them in place of packing again.

Owns the file, its name and its age. Must not know how anything is packed. The file is a safetensors file. It is used where the system
holds it, in large pages: weights in 4 KiB pages are read a quarter slower in every step. Linux keeps a file in pages as large as the
writes that made it, so it is written a large page at a time.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from slipstream.base import log
from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import Entry, read_file
from slipstream.weights.mapping import LARGE_PAGE, TYPES, Mappings

VARIABLE = "SLIPSTREAM_PACKED"  # a folder, or "off"
_HEAD = 1 << 20  # bytes of a file that its identity takes in; its size and time of change cover the rest
_LINE = 64  # bytes; what is packed begins at a line of the cache, in the file as in memory
_LAYOUT = 2  # of the file
_NAMES = {dtype: name for name, dtype in TYPES.items()}
_log = log.get(__name__)


def folder() -> Path | None:
    """Where packed weights are kept: what the environment variable says, else the user's cache; None if it says "off"."""
    wanted = os.environ.get(VARIABLE)
    if wanted:
        return None if wanted == "off" else Path(wanted)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipstream" / "packed"


class Shelf:
    """Packed tensors by name.

    Args:
        files: the checkpoint's; when one of them changes, what is kept no longer counts.
        format: of the weights, and version of the packing.
    """

    def __init__(self, files: Sequence[Path], format: str):
        self._mappings = Mappings(large_pages=True)
        place, identity = _identity(files, format)
        self._folder = folder()
        self._path = (self._folder or Path()) / f"{place}-{identity}.safetensors"
        self._found: dict[str, Entry] = {}
        self._made: dict[str, Tensor] | None = None  # what is to be written; None where the file is there or nothing is kept
        if self._folder is None:
            return
        try:
            self._found = read_file(self._path) if self._path.is_file() else {}
        except CheckpointError as error:
            _log.warning("%s; weights are packed again", error)
        if not self._found:
            self._made = {}

    def get(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, without it, to be read only; none if they are not kept."""
        return {
            name.removeprefix(prefix): self._mappings.view(entry, TYPES[entry.dtype], entry.shape)
            for name, entry in self._found.items()
            if name.startswith(prefix)
        }

    def put(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors, which must not change before `close`."""
        if self._made is not None:
            self._made |= {prefix + name: tensor for name, tensor in tensors.items()}

    def close(self) -> None:
        """Writes what was put, if anything. A disk that is full or not writable is said, and nothing is kept."""
        made, self._made, self._found = self._made, None, {}
        if not made:
            return
        size = sum(tensor.nbytes for tensor in made.values())
        part = self._path.with_suffix(f".{os.getpid()}.part")
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(part.parent).free < 2 * size:
                raise OSError(f"less than twice the {size / 1e9:.2f} GB of the packed weights is free")
            _write(part, made)
            for old in part.parent.glob(f"{self._path.name.partition('-')[0]}-*.safetensors"):  # of the same files before they changed
                old.unlink()
            part.replace(self._path)
            _log.info("packed weights are kept for the next start: %s (%.2f GB; %s=off to keep none)", self._path, size / 1e9, VARIABLE)
        except OSError as error:
            part.unlink(missing_ok=True)
            _log.warning("%s: packed weights are not kept: %s", self._path, error)


def _identity(files: Sequence[Path], format: str) -> tuple[str, str]:
    """(what names the same files in every state, what names this state)."""
    place, state = hashlib.sha256(format.encode()), hashlib.sha256(f"{format}/{_LAYOUT}".encode())
    for file in sorted(path.resolve() for path in files):
        facts = file.stat()
        place.update(str(file).encode())
        state.update(f"{file}/{facts.st_size}/{facts.st_mtime_ns}".encode())
        with file.open("rb") as stream:
            state.update(stream.read(_HEAD))
    name = re.sub(r"[^A-Za-z0-9._]+", "_", Path(files[0]).stem)[:40]
    return f"{name}_{place.hexdigest()[:12]}", state.hexdigest()[:16]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, one tensor after the other: the library's own writer would hold all of them twice. Those that leave what
    follows at the beginning of a line come first."""
    ordered, header, at = dict(sorted(tensors.items(), key=lambda item: item[1].nbytes % _LINE > 0)), {}, 0
    for name, tensor in ordered.items():
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _LINE)
    data = (memoryview(tensor.contiguous().view(torch.uint8).numpy()).cast("B") for tensor in ordered.values() if tensor.nbytes)
    with path.open("wb") as file:
        _by_page(file, [len(text).to_bytes(8, "little"), text, *data])


def _by_page(file: BinaryIO, parts: Iterable[bytes | memoryview]) -> None:
    """Writes parts one after the other, a large page at a time."""
    page = bytearray()
    for part in parts:
        left = memoryview(part)
        while left:
            taken = left[: LARGE_PAGE - len(page)]
            page += taken
            left = left[len(taken) :]
            if len(page) == LARGE_PAGE:
                file.write(page)
                page.clear()
    file.write(page)
