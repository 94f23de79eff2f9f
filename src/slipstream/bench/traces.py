"""Traces: lengths and arrival times of real requests, from the files in which they are published. Owns the names of their columns."""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError

PROMPT = ("ContextTokens", "input_length", "input_toks", "num_prefill_tokens", "prompt_tokens")
OUTPUT = ("GeneratedTokens", "output_length", "output_toks", "num_decode_tokens", "output_tokens")
TIMES = {"TIMESTAMP": None, "timestamp": 1e-3, "arrival_time_ns": 1e-9, "arrival_s": 1.0}  # seconds of one unit; None: a date


@dataclass(frozen=True, slots=True)
class Entry:
    """One request: tokens of its prompt and of its output; seconds after the first one's arrival, None where a trace has no times."""

    prompt: int
    output: int
    at: float | None = None


def read(path: Path, count: int) -> list[Entry]:
    """The first `count` requests of a trace in the order of the file: CSV with a header line, or JSON lines, either one gzipped or not.

    Raises:
        InputError: it cannot be read; names the line and what is missing.
    """
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        lines = io.StringIO(data.decode("utf-8"))
        rows = list(islice(_json_rows(path, lines) if ".jsonl" in path.suffixes else csv.DictReader(lines), count))
    except InputError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise InputError(f"trace {path}: cannot be read ({error})") from None
    entries = [_entry(path, number, row) for number, row in enumerate(rows, start=1)]
    if not entries:
        raise InputError(f"trace {path}: holds no request")
    first = entries[0].at
    return entries if first is None else [Entry(entry.prompt, entry.output, max(0.0, entry.at - first)) for entry in entries]


def _json_rows(path: Path, lines: Iterator[str]) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"trace {path}: request {number} is not JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"trace {path}: request {number} is not an object of JSON")
        yield row


def _entry(path: Path, number: int, row: Mapping[str, Any]) -> Entry:
    prompt, output = (_number(path, number, row, names) for names in (PROMPT, OUTPUT))
    name = next((name for name in TIMES if row.get(name) is not None), None)
    if name is None:
        return Entry(prompt, output)
    try:
        unit = TIMES[name]
        at = float(row[name]) * unit if unit is not None else _seconds(row[name])
        if not math.isfinite(at):
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"trace {path}: request {number} has {name}={row[name]!r}, which is no time") from None
    return Entry(prompt, output, at)


def _number(path: Path, number: int, row: Mapping[str, Any], names: tuple[str, ...]) -> int:
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise InputError(f"trace {path}: request {number} has no length; one of the columns {', '.join(names)} must say it")
    try:
        value = int(row[name])
    except (ValueError, TypeError, OverflowError):
        value = 0
    if value < 1:
        raise InputError(f"trace {path}: request {number} has {name}={row[name]!r}; must be a whole number above 0")
    return value


def _seconds(date: str) -> float:
    """ "2023-11-16 18:15:46.6805900" -> seconds; Python reads six digits after the point at most."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", date)).timestamp()
