"""Tables of fast settings as data: which form serves how many rows, one JSON file per GPU. Found by `slipstream tune`.

    h200.json                                 ships, and serves every GPU that has no file of its own
    ~/.cache/slipstream/tuned/<gpu>.json      what the user's own command wrote for the GPU of this machine; comes first

Owns the files, the choice among them and what a table looks like in one. A table is described once, beside the kernels that it is
about: reading, writing and deciding (bench/gpu/deciding.py) all go by that. Deterministic settings are no data: their tables fix the
order of sums, so they stand in the code. Must not know a kernel, and asks the driver's tool for the GPU's name, never CUDA: processes
that fork afterwards may read tables.

    {"gpu": "NVIDIA H200", "tables": {
        "small": {"measured": {"case": ..., "commit": ..., "date": ..., "gpu": ...},        or "not measured", in words
                  "entries": [{"rows": 8, "bulk": {"rows": 8, ...}}, {"rows": null, "way": "cublas"}]},
        "gate": {"measured": ..., "entries": {"bf16": 64}}}}

`rows` is up to how many rows of a step an entry serves, null for all that are more. Of a table that a file leaves out the one that
ships holds.
"""

import importlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.hardware import gpu

FOLDER, SHIPPED = Path(__file__).parent, "h200"
OWNERS = ("whole", "plain", "fp8", "fused", "attention", "mixture")  # modules of ops/triton that describe tables
ALL = 1 << 31  # more rows than any step has
PROVENANCE = {"case", "commit", "date", "gpu"}


def takes(way: Any) -> int:
    """Most rows that a way serves: what it says of itself, else any number."""
    return getattr(way, "up_to", ALL)


@dataclass(frozen=True, eq=False)
class Ranges:
    """A table by number of rows: ((up to how many rows, a way for each column), ...), ascending, the last for ALL.

    Attributes:
        name: in files.
        columns: names in files -> dataclass of the ways; an entry has one way of each column.
        words: ways of the first column that have no fields; written {"way": word}.
    """

    name: str
    columns: tuple[Mapping[str, type], ...]
    words: tuple[str, ...] = ()

    @property
    def now(self) -> tuple:
        """The entries of this process."""
        return current()[self.name].entries

    def read(self, entries: Any) -> tuple:
        """What `written` gave."""
        if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"entries={entries!r}: must be a list of objects with rows and ways")
        made = tuple(self._entry(entry) for entry in entries)
        bounds = [most for most, *_ in made]
        if bounds != sorted(set(bounds)) or bounds[-1] != ALL:
            raise InputError(f"rows={[entry['rows'] for entry in entries]}: bounds must ascend, and null be the last")
        for most, *chosen in made:
            if any(most > takes(way) for way in chosen):
                raise InputError(f"rows={None if most == ALL else most}: more than {chosen} takes")
        return made

    def _entry(self, entry: dict[str, Any]) -> tuple:
        known = {name: made for column in self.columns for name, made in column.items()}
        for name in entry:
            if name not in known and name != "rows" and not (self.words and name == "way"):
                raise registry.unknown("field", name, {"rows", *known, *(["way"] if self.words else [])})
        rows = entry.get("rows", 0)
        if not (rows is None or _whole(rows) and 0 < rows < ALL):
            raise InputError(f"rows={rows!r}: must be a number of rows from 1 on, or null for all that are more")
        ways = [self._way(number, entry) for number in range(len(self.columns))]
        return (ALL if rows is None else rows, *ways)

    def _way(self, number: int, entry: dict[str, Any]) -> Any:
        column, words = self.columns[number], () if number else self.words
        given = [name for name in entry if name in column or (words and name == "way")]
        if len(given) != 1:
            raise InputError(f"entry={entry!r}: must have one of {', '.join((*column, *(['way'] if words else [])))}")
        [name] = given
        if name != "way":
            return _made(name, column[name], entry[name])
        if entry[name] not in words:
            raise registry.unknown("way", entry[name], words)
        return entry[name]

    def written(self, entries: tuple) -> list[dict[str, Any]]:
        """As a file has it."""
        return [{"rows": None if most == ALL else most, **self._names(ways)} for most, *ways in entries]

    def _names(self, ways: list) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for column, way in zip(self.columns, ways, strict=True):
            name = next((name for name, made in column.items() if type(way) is made), "way")
            out[name] = way if name == "way" else asdict(way)
        return out


@dataclass(frozen=True, eq=False)
class ByName:
    """A table of names -> numbers of rows, or ways; what has no entry is done as if there were no table.

    Attributes:
        name: in files.
        names: that may have an entry.
        kind: int, or the dataclass of the ways.
    """

    name: str
    names: tuple[str, ...]
    kind: type

    @property
    def now(self) -> dict[str, Any]:
        """The entries of this process."""
        return current()[self.name].entries

    def read(self, entries: Any) -> dict[str, Any]:
        """What `written` gave."""
        if not isinstance(entries, dict):
            raise InputError(f"entries={entries!r}: must be an object of names")
        for name, value in entries.items():
            if name not in self.names:
                raise registry.unknown("name", name, self.names)
            if self.kind is int and not (_whole(value) and value > 0):
                raise InputError(f"{name}={value!r}: must be a number of rows from 1 on")
        return {name: value if self.kind is int else _made(name, self.kind, value) for name, value in entries.items()}

    def written(self, entries: dict[str, Any]) -> dict[str, Any]:
        """As a file has it."""
        return {name: asdict(value) if is_dataclass(value) else value for name, value in entries.items()}


Table = Ranges | ByName


@dataclass(frozen=True, slots=True)
class Tuned:
    """One table of a file: its entries, and where they are from: PROVENANCE, or words that say that nobody measured them."""

    entries: Any
    measured: Mapping[str, str] | str


@cache
def tables() -> dict[str, Table]:
    """name -> description of every table."""
    modules = (importlib.import_module(f"slipstream.ops.triton.{name}") for name in OWNERS)
    return {table.name: table for module in modules for table in vars(module).values() if isinstance(table, Table)}


@cache
def current() -> dict[str, Tuned]:
    """The tables of this process: those of `source`, and of the file that ships what it leaves out."""
    shipped = read(shipped_file())
    return shipped if source() == shipped_file() else shipped | read(source())


@cache
def source() -> Path:
    """The file that this process goes by."""
    name = device()
    own = own_file(name) if name else None
    if own is not None and own.is_file():
        return own
    words = name.lower().split()
    return next((path for path in sorted(FOLDER.glob("*.json")) if path.stem in words), shipped_file())


def device() -> str:
    """The GPU that this process computes on, of several the first; "" without one and where Triton interprets."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return ""
    return next((each.name for each in gpu.read() or ()), "")


def shipped_file() -> Path:
    """What serves where there is no other."""
    return FOLDER / f"{SHIPPED}.json"


def own_file(name: str) -> Path:
    """Where the user's own tables for a GPU of this name lie."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "slipstream" / "tuned" / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def read(path: Path) -> dict[str, Tuned]:
    """The tables of a file.

    Raises:
        InputError: it cannot be read, or a table is unknown or not as its description says; names file, table, value and way out.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(given, dict) or set(given) != {"gpu", "tables"} or not isinstance(given["tables"], dict):
            raise InputError("must be an object with gpu and tables")
        return {name: _table(name, entry) for name, entry in given["tables"].items()}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {error}; delete it, or let `slipstream tune` write it again") from None


def _table(name: str, entry: Any) -> Tuned:
    if name not in tables():
        raise registry.unknown("table", name, tables())
    try:
        if not isinstance(entry, dict) or set(entry) != {"measured", "entries"}:
            raise InputError("must be an object with measured and entries")
        measured = entry["measured"]
        if not (isinstance(measured, str) or isinstance(measured, dict) and set(measured) == PROVENANCE):
            raise InputError(f"measured={measured!r}: must be words or have {', '.join(sorted(PROVENANCE))}")
        return Tuned(tables()[name].read(entry["entries"]), measured)
    except InputError as error:
        raise InputError(f"table {name!r}: {error}") from None


def write(path: Path, name: str, found: Mapping[str, Tuned]) -> None:
    """Writes the tables of the GPU `name` whole, or not at all, an entry a line.

    Raises:
        InputError: the file cannot be written.
    """
    lines = []
    for key, one in found.items():
        written = tables()[key].written(one.entries)
        entries = json.dumps(written)
        if isinstance(written, list):
            entries = "[\n" + ",\n".join(f"        {json.dumps(entry)}" for entry in written) + "\n      ]"
        lines.append(f'    {json.dumps(key)}: {{\n      "measured": {json.dumps(one.measured)},\n      "entries": {entries}\n    }}')
    text = f'{{\n  "gpu": {json.dumps(name)},\n  "tables": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"out={path}: cannot be written: {error}; name another with --out") from None


def _made(name: str, kind: type, given: Any) -> Any:
    """The way of that dataclass that a file describes by its fields."""
    if not isinstance(given, dict):
        raise InputError(f"{name}={given!r}: must be an object of fields")
    known = {field.name: field for field in fields(kind)}
    for key, value in given.items():
        if key not in known:
            raise registry.unknown(f"{name}: field", key, known)
        if not (_whole(value) if known[key].type is int else isinstance(value, known[key].type)):
            raise InputError(f"{name}: {key}={value!r}: must be {'a whole number from 0 on' if known[key].type is int else 'a word'}")
    missing = [key for key, field in known.items() if key not in given and field.default is MISSING]
    if missing:
        raise InputError(f"{name}={given!r}: has no {', '.join(missing)}")
    return kind(**given)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 40
