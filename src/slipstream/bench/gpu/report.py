"""The report of a suite: suite.json for programs, table.md for readers, both made from the journal at any time.

Owns their layout (SCHEMA). Must not measure.
"""

import json
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import slipstream
from slipstream.base import registry
from slipstream.bench.gpu.ask import CASES
from slipstream.bench.gpu.journal import Journal, Record, plain
from slipstream.hardware import read

SCHEMA = 1
DRY = "DRY RUN on the CPU with Triton's interpreter: no figure here says anything about a GPU."
PACKAGES = ("torch", "triton", "numpy")


def write(options, journal: Journal) -> Path:
    """Writes both files; returns the table's path.

    Args:
        options: runner.Options.
    """
    records = journal.cases()
    modules = {name: _module(name) for name in records}
    order = sorted(records.values(), key=lambda record: getattr(modules[record.name], "ORDER", 10**6))
    suite = content(options, order, modules)
    whole = options.out / "suite.json"
    whole.write_text(json.dumps(plain(suite), indent=1) + "\n", encoding="utf-8")
    table = options.out / "table.md"
    table.write_text(readable(suite), encoding="utf-8")
    return table


def content(options, records: list[Record], modules: dict[str, ModuleType | None]) -> dict[str, Any]:
    """suite.json."""
    return {
        "schema": SCHEMA,
        "suite": "gpu",
        "dry_run": options.dry,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": options.command,
        "commit": options.commit or _commit(),
        "budget_s": options.seconds,
        "versions": {"slipstream": slipstream.__version__, "python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "machine": asdict(read()),
        "cases": [
            {
                "question": getattr(modules[record.name], "QUESTION", ""),
                "answer": _answer(modules[record.name], record),
                **asdict(record),
            }
            for record in records
        ],
    }


def readable(suite: dict[str, Any]) -> str:
    """table.md: what happened, what it says, then every case's rows."""
    gpus = ", ".join(gpu["name"] for gpu in suite["machine"]["gpus"] or ()) or "no GPU"
    versions = ", ".join(f"{name} {version}" for name, version in suite["versions"].items())
    out = ["# GPU suite", "", *([f"**{DRY}**", ""] if suite["dry_run"] else [])]
    out += [f"{suite['date']} on {gpus} ({versions}), commit {suite['commit']}", "", f"`{suite['command']}`", ""]
    status = [
        {
            "case": case["name"], "status": case["status"], "rows": len(case["rows"]), "s": case["seconds"],
            "failures": len(case["failures"]), "not measured here": len(case["unavailable"]), "left out": case["left"],
        }
        for case in suite["cases"]
    ]  # fmt: skip
    out += [*table(status), "", "## What it says", ""]
    for case in suite["cases"]:
        if case["answer"]:
            out += [f"**{case['question']}**", "", *(f"* {text}" for text in case["answer"]), ""]
    for case in suite["cases"]:
        out += [f"## {case['name']}: {case['status']}", "", case["question"], ""]
        if case["rows"]:
            out += [*table([{key: value for key, value in row.items() if key != "point"} for row in case["rows"]]), ""]
        out += [f"* {text}" for text in case["notes"]]
        out += [f"* left out for want of time: {case['left']}"] if case["left"] else []
        reasons: dict[str, list[str]] = {}
        for point, why in case["unavailable"]:
            reasons.setdefault(why, []).append(point)
        for why, points in reasons.items():
            out.append(f"* not measured here: {why} ({points[0]}{f' and {len(points) - 1} more' if points[1:] else ''})")
        out += [f"* FAILED: {point}: {why}" for point, why in case["failures"]]
        out.append("")
    return "\n".join(out)


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as a Markdown table; lists and dicts are not shown; columns are all keys in the order in which they first appear."""
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list | dict)))
    cells = [[_cell(row.get(key)) for key in keys] for row in rows]
    widths = [max(len(key), *(len(row[at]) for row in cells)) for at, key in enumerate(keys)]
    lines = [keys, ["-" * width for width in widths], *cells]
    return ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in lines]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}" if size >= 1e-3 or not size else f"{value:.1e}"
    return str(value).replace("|", "/")


def _module(name: str) -> ModuleType | None:
    try:
        return registry.load(CASES, name, "case")
    except Exception:  # a case that cannot be imported (any more) still has its lines in the journal, which say so
        return None


def _answer(case: ModuleType | None, record: Record) -> list[str]:
    if case is None or not record.rows:
        return []
    try:
        return case.answer(record.rows)
    except Exception as error:  # rows of an older form must not cost the report
        return [f"(the case cannot sum up these rows: {type(error).__name__}: {error})"]


def _commit() -> str | None:
    try:
        from slipstream.bench.results import commit  # imports the engine, which may be what is broken
    except Exception as error:
        return f"not known, slipstream.bench.results cannot be imported: {error}"
    return commit()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
