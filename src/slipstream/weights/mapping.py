"""Files mapped into memory, as tensors. Nothing is read until it is used. Must not know names or what a tensor is for."""

import contextlib
import mmap
import warnings
from pathlib import Path

import torch
from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import Entry

TYPES = {
    "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I8": torch.int8, "U8": torch.uint8, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
FLOATS = ("F32", "BF16", "F16")
LARGE_PAGE = 1 << 21  # bytes
_POPULATE_READ = 22  # of madvise on Linux, which Python does not name: map all pages now


class Mappings:
    """The mappings of some files, each opened when it is first needed.

    Args:
        large_pages: all of a file will be read many times: it is mapped at once, in large pages where the system can.
    """

    def __init__(self, large_pages: bool = False) -> None:
        self._maps: dict[Path, mmap.mmap] = {}
        self._large_pages = large_pages

    def view(self, entry: Entry, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The bytes of an entry as a read-only tensor in the file; writing to it ends the process.

        Args:
            entry: where they lie.
            dtype, shape: what they are; shape must take exactly these bytes.

        Raises:
            CheckpointError: the file cannot be mapped.
        """
        if entry.start == entry.end:
            return torch.empty(shape, dtype=dtype)
        if entry.start % dtype.itemsize:
            raw = bytearray(self._map(entry.file)[entry.start : entry.end])  # unaligned in the file: a copy
            return torch.frombuffer(raw, dtype=dtype).view(shape)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            count = (entry.end - entry.start) // dtype.itemsize
            return torch.frombuffer(self._map(entry.file), dtype=dtype, count=count, offset=entry.start).view(shape)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise CheckpointError(f"{file}: cannot be mapped ({error.strerror})") from error
            if self._large_pages and hasattr(mmap, "MADV_HUGEPAGE"):
                for advice in (mmap.MADV_HUGEPAGE, _POPULATE_READ):
                    with contextlib.suppress(OSError):  # a system without either reads as it always does
                        self._maps[file].madvise(advice)
        return self._maps[file]
