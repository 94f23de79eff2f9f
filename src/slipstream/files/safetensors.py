"""safetensors files: which tensor lies where. Every number a file claims is checked before anything trusts it.

Format (huggingface/safetensors): u64 little-endian header length, that many bytes of JSON, then the data; each entry is
{"dtype", "shape", "data_offsets": [begin, end)} relative to the data, which the entries cover without gap or overlap.
Owns headers and the index of sharded checkpoints. Must not know tensors, models or what a name means.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slipstream.base.errors import CheckpointError, InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MAX_HEADER = 100_000_000  # bytes; the limit of the reference implementation
MAX_INDEX = 100_000_000
ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4,
}  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        file: the file.
        dtype: as the header writes it, for instance "BF16".
        shape: its dimensions.
        start, end: byte offsets from the beginning of the file.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_folder(folder: Path | str) -> dict[str, Entry]:
    """All tensors of a checkpoint folder: sharded (index file) or a single file.

    Raises:
        InputError: there is no safetensors checkpoint; names what is there instead and the way out.
        CheckpointError: a file contradicts itself or the index.
    """
    folder = Path(folder)
    if (folder / INDEX).is_file():
        return _read_sharded(folder)
    if (folder / SINGLE).is_file():
        return read_file(folder / SINGLE)
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise InputError(
            f"model={str(folder)!r}: {pickles[0]} is a pickle, which can run any code when loaded and is never opened; "
            "save it again with save_pretrained(..., safe_serialization=True) or take a revision with *.safetensors"
        )
    raise InputError(f"model={str(folder)!r}: has neither {SINGLE} nor {INDEX}")


def read_file(path: Path) -> dict[str, Entry]:
    """All tensors of one file, in the order of their data.

    Raises:
        CheckpointError: the file is truncated, garbage, or its header contradicts itself or the file's length.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise _broken(path, f"header length {length} does not fit a file of {size} bytes (limit {MAX_HEADER})")
            text = file.read(length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    header = _json_object(path, text)
    header.pop("__metadata__", None)
    base = 8 + length
    entries = {name: _entry(path, name, value, base, size) for name, value in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    at = base
    for name, entry in ordered.items():
        if entry.start != at:
            raise _broken(path, f"tensor {name!r} begins at byte {entry.start}, but the one before it ends at {at} (gap or overlap)")
        at = entry.end
    if at != size:
        raise _broken(path, f"the header describes {at} bytes, the file has {size}")
    return ordered


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if it is none, or holds a name twice."""
    if path.stat().st_size > MAX_INDEX:
        raise _broken(path, f"larger than {MAX_INDEX} bytes")
    return _json_object(path, path.read_bytes())


def _read_sharded(folder: Path) -> dict[str, Entry]:
    index = folder / INDEX
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(shard, str) for shard in placed.values()):
        raise _broken(index, "weight_map must map tensor names to file names")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(placed.values())):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise _broken(index, f"weight_map names {shard!r}, which is not a *.safetensors file of this folder")
        if not (folder / shard).is_file():
            raise CheckpointError(f"{folder / shard}: is missing, but {INDEX} names it; fetch the whole checkpoint")
        for name, entry in read_file(folder / shard).items():
            if placed.get(name) != shard:
                raise _broken(index, f"tensor {name!r} lies in {shard}, but the index says {placed.get(name)!r}")
            entries[name] = entry
    for name, shard in placed.items():
        if name not in entries:
            raise _broken(index, f"tensor {name!r} should lie in {shard}, but does not")
    return entries


def _entry(path: Path, name: str, value: Any, base: int, size: int) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"tensor {name!r} needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise _broken(path, f"tensor {name!r} has the unknown dtype {_short(dtype)}; known: {', '.join(ITEM_BITS)}")
    if not _all_whole(shape) or len(shape) > 16:
        raise _broken(path, f"tensor {name!r} has the shape {_short(shape)}, which is not a list of whole numbers")
    if not _all_whole(offsets) or len(offsets) != 2:
        raise _broken(path, f"tensor {name!r} has data_offsets {_short(offsets)}, which are not two whole numbers")
    begin, end = offsets
    if not begin <= end <= size - base:
        raise _broken(path, f"tensor {name!r} has data_offsets {offsets}, outside the {size - base} bytes of data")
    bits = ITEM_BITS[dtype]
    for dimension in shape:
        bits *= dimension
    if bits != 8 * (end - begin):
        raise _broken(path, f"tensor {name!r}: {dtype} of shape {_short(shape)} does not take {end - begin} bytes")
    return Entry(path, dtype, tuple(shape), base + begin, base + end)


def _all_whole(values: Any) -> bool:
    """Whether it is a list of whole numbers that a file could hold."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _json_object(path: Path, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"no valid JSON ({_short(str(error))})") from error
    if not isinstance(value, dict):
        raise _broken(path, "the JSON is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a name occurs twice")
    return out


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; the file is damaged or incomplete, fetch it again")
