"""GGUF files: metadata and where each tensor lies. Every number a file claims is checked before anything trusts it.

Format (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian: "GGUF", u32 version, u64 tensors, u64 metadata pairs;
pairs of string key, u32 type, value; tensor infos of string name, u32 dimensions, u64 sizes (fastest first), u32 type, u64
offset from the data, which begins at the next multiple of `general.alignment`. A string is a u64 length and UTF-8 bytes.
Owns headers and the shards of split files. Must not know tensors, models or what a name means.
"""

import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.base.errors import CheckpointError, InputError
from slipstream.files.safetensors import Entry

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_HEADER = 256_000_000  # bytes of metadata and tensor infos; vocabularies of real models take less than 20 MB
MAX_DIMENSIONS = 4
MAX_SHARDS = 1000
_ALIGNMENT = 32
# type id -> (name, values per block, bytes per block)
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class Gguf:
    """A parsed file, or a split file put together.

    Attributes:
        file: the file, the first one of several.
        metadata: key -> number, text, truth value or list of one of these.
        tensors: name -> where it lies; the dtype is the name of its ggml type, shapes have the fastest dimension last.
    """

    file: Path
    metadata: dict[str, Any]
    tensors: dict[str, Entry]


def read(path: Path | str) -> Gguf:
    """A file with all its shards ("...-00001-of-00003.gguf" brings the other two).

    Raises:
        InputError: it is a shard, but not the first one.
        CheckpointError: a file is truncated, garbage, of another version, or contradicts itself or its length.
    """
    first = read_file(Path(path))
    count = first.metadata.get("split.count", 1)
    if not isinstance(count, int) or not 1 <= count <= MAX_SHARDS:
        raise _broken(first.file, f"split.count={count!r} is not a number of files from 1 to {MAX_SHARDS}")
    if count == 1:
        return first
    name = _SHARD.fullmatch(first.file.name)
    if first.metadata.get("split.no", 0) != 0 or (name and int(name[2]) != 1):
        raise InputError(f"{first.file}: is one of {count} shards, but not the first; give the one that ends in -00001-of-{count:05}.gguf")
    if name is None or int(name[3]) != count:
        raise InputError(f"{first.file}: says it is one of {count} files; call it NAME-00001-of-{count:05}.gguf, with the others beside it")
    tensors = dict(first.tensors)
    for number in range(2, count + 1):
        path = first.file.with_name(f"{name[1]}-{number:05}-of-{count:05}.gguf")
        if not path.is_file():
            raise CheckpointError(f"{path}: is missing, but {first.file.name} is the first of {count} files; fetch them all")
        shard = read_file(path).tensors
        twice = sorted(set(tensors) & set(shard))
        if twice:
            raise _broken(path, f"tensor {twice[0]!r} lies in an earlier shard already")
        tensors |= shard
    return Gguf(first.file, first.metadata, tensors)


def read_file(path: Path) -> Gguf:
    """One file; see `read`."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise _broken(path, f"{size} bytes are no GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _parse(path, content, size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def is_gguf(path: Path) -> bool:
    """Whether a file begins like one."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == MAGIC


class _Cursor:
    """Reads forward through the header and never past its end."""

    def __init__(self, path: Path, content: mmap.mmap, size: int):
        self.path, self.content, self.at, self.end = path, content, 0, min(size, MAX_HEADER)

    def take(self, count: int) -> int:
        """Position of the next `count` bytes, which are passed over."""
        if count > self.end - self.at:
            raise _broken(self.path, f"{count} bytes are claimed at byte {self.at}, but the header can reach to {self.end} at most")
        self.at += count
        return self.at - count

    def number(self, code: str) -> Any:
        return struct.unpack_from("<" + code, self.content, self.take(struct.calcsize("<" + code)))[0]

    def text(self) -> str:
        length = self.number("Q")
        at = self.take(length)
        try:
            return self.content[at : at + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise _broken(self.path, f"the text at byte {at} is not UTF-8") from error

    def texts(self, count: int) -> list[str]:
        """As many texts as a vocabulary has, in one loop without calls."""
        content, at, end, out = self.content, self.at, self.end, []
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            after = at + 8
            if after > end or (length := length_at(content, at)[0]) > end - after:
                break  # `text` below says what is wrong
            at = after + length
            try:
                out.append(str(content[after:at], "utf-8"))
            except UnicodeDecodeError:
                at = after - 8
                break
            self.at = at
        out.extend(self.text() for _ in range(count - len(out)))
        return out

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise _broken(self.path, f"value type {kind} at byte {self.at} is unknown")
        inner, count = self.number("I"), self.number("Q")
        if inner == _STRING:
            if count * 8 > self.end - self.at:
                raise _broken(self.path, f"an array of {count} texts is claimed at byte {self.at}, but the file ends before")
            return self.texts(count)
        if inner not in _SCALARS:
            raise _broken(self.path, f"an array of value type {inner} at byte {self.at} is not supported")
        code = _SCALARS[inner]
        at = self.take(count * struct.calcsize(code))
        return list(struct.unpack_from(f"<{count}{code}", self.content, at))


def _parse(path: Path, content: mmap.mmap, size: int) -> Gguf:
    if content[:4] != MAGIC:
        raise _broken(path, "does not begin with GGUF")
    cursor = _Cursor(path, content, size)
    cursor.take(4)
    version = cursor.number("I")
    if version == 1:
        raise CheckpointError(f"{path}: GGUF version 1 (of 2023) is not supported; write it again with a current converter (version 3)")
    if version & 0xFFFF == 0:
        raise CheckpointError(f"{path}: is a big-endian GGUF file, which is not supported; take the little-endian one")
    if version not in VERSIONS:
        raise CheckpointError(f"{path}: GGUF version {version} is not supported; supported: 2, 3")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    if pairs * 13 + tensors * 32 > cursor.end:
        raise _broken(path, f"{pairs} metadata pairs and {tensors} tensors are claimed in a file of {size} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(pairs):
        key = cursor.text()
        if key in metadata:
            raise _broken(path, f"metadata key {_short(key)} occurs twice")
        metadata[key] = cursor.value(cursor.number("I"))
    infos = [_info(cursor) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise _broken(path, f"general.alignment={alignment!r} is not a power of two up to 2**20")
    return Gguf(path, metadata, _place(path, infos, alignment, -(-cursor.at // alignment) * alignment, size))


def _info(cursor: _Cursor) -> tuple[str, str, tuple[int, ...], int, int]:
    """(name, type, shape with the fastest dimension last, bytes, offset) of a tensor."""
    name, dimensions = cursor.text(), cursor.number("I")
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise _broken(cursor.path, f"tensor {_short(name)} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
    sizes = [cursor.number("Q") for _ in range(dimensions)]
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in TYPES:
        raise CheckpointError(f"{cursor.path}: tensor {_short(name)} has the unknown ggml type {kind}; take a file of a common type (Q8_0)")
    dtype, block, width = TYPES[kind]
    if min(sizes) < 1 or max(sizes) >= 2**48 or sizes[0] % block:
        raise _broken(cursor.path, f"tensor {_short(name)} has the sizes {sizes}, which {dtype} (blocks of {block}) cannot have")
    length = width * (sizes[0] // block)
    for more in sizes[1:]:
        length *= more
    return name, dtype, tuple(reversed(sizes)), length, offset


def _place(path: Path, infos: list, alignment: int, base: int, size: int) -> dict[str, Entry]:
    """Entries in the order of their data: aligned, inside the file, none over another."""
    entries: dict[str, Entry] = {}
    end = base
    for name, dtype, shape, length, offset in sorted(infos, key=lambda info: info[4]):
        start = base + offset
        if name in entries:
            raise _broken(path, f"tensor {_short(name)} occurs twice")
        if offset % alignment or start < end:
            raise _broken(path, f"tensor {_short(name)} begins at byte {start}, not aligned to {alignment} or inside another tensor")
        end = start + length
        if end > size:
            raise _broken(path, f"tensor {_short(name)} ends at byte {end}, but the file has {size}")
        entries[name] = Entry(path, dtype, shape, start, end)
    return entries


def _short(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; the file is damaged or incomplete, fetch it again")
