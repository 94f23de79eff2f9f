"""Shelf: packed weights of one model in one format, kept on disk so that the next start reads them in place of packing again.

Owns the file, its name and its age. Must not know how anything is packed. The file is a safetensors file; it is read into memory in
large pages, not mapped: weights in 4 KiB pages are read a quarter slower in every step, and reading them once costs less.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from slipstream.base import log, native
from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import Entry, read_file
from slipstream.weights.mapping import TYPES

VARIABLE = "SLIPSTREAM_PACKED"  # a folder, or "off"
_HEAD = 1 << 20  # bytes of a file that its identity takes in; its size and time of change cover the rest
_PIECE = 1 << 21  # bytes read at a time by one thread: a large page, so that no two threads wait for the same one
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
        threads: that read.
    """

    def __init__(self, files: Sequence[Path], format: str, threads: int):
        self._readers, self._file = ThreadPoolExecutor(threads, thread_name_prefix="shelf"), None
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
        """The tensors whose names begin with `prefix`, without it; none if they are not kept."""
        return {name.removeprefix(prefix): self._read(entry) for name, entry in self._found.items() if name.startswith(prefix)}

    def put(self, prefix: str, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors, which must not change before `close`."""
        if self._made is not None:
            self._made |= {prefix + name: tensor for name, tensor in tensors.items()}

    def close(self) -> None:
        """Writes what was put, if anything. A disk that is full or not writable is said, and nothing is kept."""
        self._readers.shutdown()
        if self._file is not None:
            self._file.close()
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

    def _read(self, entry: Entry) -> Tensor:
        size = entry.end - entry.start
        raw = torch.empty(size, dtype=torch.uint8)
        if native.module is not None:
            native.module.advise_huge(raw.data_ptr(), size)
        view = memoryview(raw.numpy())
        if self._file is None:
            self._file = entry.file.open("rb")
        first = -raw.data_ptr() % _PIECE  # bytes before the first large page
        edges = [0, *range(first, size, _PIECE), size] if first else [*range(0, size, _PIECE), size]
        pieces = [(view[begin:end], entry.start + begin) for begin, end in pairwise(edges)]
        list(self._readers.map(lambda piece: _fill(self._file.fileno(), *piece, entry.file), pieces))
        return raw.view(TYPES[entry.dtype]).view(entry.shape)


def _fill(descriptor: int, view: memoryview, at: int, path: Path) -> None:
    while view:
        count = os.preadv(descriptor, [view], at)
        if count == 0:
            raise CheckpointError(f"{path}: ends too early; remove it, and it will be made again")
        view, at = view[count:], at + count


def _identity(files: Sequence[Path], format: str) -> tuple[str, str]:
    """(what names the same files in every state, what names this state)."""
    place, state = hashlib.sha256(format.encode()), hashlib.sha256(format.encode())
    for file in sorted(path.resolve() for path in files):
        facts = file.stat()
        place.update(str(file).encode())
        state.update(f"{file}/{facts.st_size}/{facts.st_mtime_ns}".encode())
        with file.open("rb") as stream:
            state.update(stream.read(_HEAD))
    name = re.sub(r"[^A-Za-z0-9._]+", "_", Path(files[0]).stem)[:40]
    return f"{name}_{place.hexdigest()[:12]}", state.hexdigest()[:16]


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """A safetensors file, one tensor after the other: the library's own writer would hold all of them twice."""
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for tensor in tensors.values():
            file.write(memoryview(tensor.contiguous().view(torch.uint8).numpy()))
