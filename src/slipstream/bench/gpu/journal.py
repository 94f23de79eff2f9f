"""The journal of a suite: results.jsonl, one line per event, written as soon as it happened.

Owns the format of the lines and the way back from lines to cases. Whatever dies, what was measured before is in the file.

    {"case": C, "event": "start" | "end", ...}                  a run of a case; end has its status
    {"case": C, "event": "begin" | "point", "point": P, ...}    a point was begun, was done
    {"case": C, "event": "row", "point": P, "row": {...}}       figures
    {"case": C, "event": "note" | "left" | "unavailable" | "failure", "text": ...}
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DONE, PARTIAL, FAILED, LEFT_OUT = "done", "partial", "failed", "left out"


@dataclass
class Record:
    """What the journal knows of one case; see report.py for the words of a reader.

    Attributes:
        status: DONE, PARTIAL (some points are missing), FAILED or LEFT_OUT.
        rows: {"point": label, **figures}.
        notes: sentences. left: which points the last run had no time for. unavailable, failures: (point, why).
        begun, done: labels of points; a label that was begun and is not done crashed or hung.
        seconds: over all its runs.
    """

    name: str
    status: str = LEFT_OUT
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: str = ""
    unavailable: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Journal:
    """Appends to and reads one results.jsonl. Processes may take turns; every line is flushed."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, case: str, event: str, **fields: Any) -> None:
        line = json.dumps(plain({"case": case, "event": event, **fields}), allow_nan=False)
        with self.path.open("a+b") as file:
            if file.tell():  # a process that was killed may have left half a line
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else "\n" + line
            file.write(line.encode() + b"\n")

    def events(self) -> list[dict[str, Any]]:
        """All whole lines; half a line that a killed process left is skipped."""
        if not self.path.exists():
            return []
        out = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                out.append(json.loads(line))
            except ValueError:
                continue
        return out

    def cases(self) -> dict[str, Record]:
        """Every case that was ever started or left out. A later call's news of a point replace an earlier one's."""
        out: dict[str, Record] = {}
        for event in self.events():
            record = out.setdefault(event["case"], Record(event["case"]))
            _HEARD[event["event"]](record, event)
        return out

    def cases_called(self, name: str) -> Record:
        return self.cases().get(name, Record(name))


def _start(record: Record, event: dict[str, Any]) -> None:
    if not event["again"]:  # a new call of the suite: what failed is tried again
        record.begun = list(record.done)
        record.failures, record.notes, record.left = [], [], ""
        record.unavailable = [entry for entry in record.unavailable if entry[0] in record.done]
        record.rows = [row for row in record.rows if row["point"] in record.done]


def _end(record: Record, event: dict[str, Any]) -> None:
    record.status = PARTIAL if event["status"] == DONE and record.failures else event["status"]  # a crash that was survived counts
    record.seconds += event["seconds"]


_HEARD = {
    "start": _start,
    "end": _end,
    "begin": lambda record, event: record.begun.append(event["point"]),
    "point": lambda record, event: record.done.append(event["point"]),
    "row": lambda record, event: record.rows.append({"point": event["point"], **event["row"]}),
    "note": lambda record, event: record.notes.append(event["text"]),
    "left": lambda record, event: setattr(record, "left", event["text"]),
    "unavailable": lambda record, event: record.unavailable.append((event["point"], event["text"])),
    "failure": lambda record, event: record.failures.append((event["point"], event["text"])),
}


def plain(value: Any) -> Any:
    """Values that JSON has: NaN and infinities as text, tuples as lists, everything unknown as its text."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, str | int | bool) else str(value)
