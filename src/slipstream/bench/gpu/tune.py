"""Tuning: the cases whose times decide tables of fast settings, and from their rows the file of tables (ops/triton/tuned).

Owns which cases, where their rows come from, and what is written and said. The rule is deciding.py's. `slipstream tune`, and
`python -m slipstream.bench tune` where typer and rich are not installed.
"""

import argparse
import importlib.util
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.bench.gpu import runner
from slipstream.bench.gpu.ask import CASES
from slipstream.bench.gpu.journal import Journal

NAME = "tune"
DECIDING = ("packed_forms", "dense_forms", "layer_chain", "attention_forms", "shared_prefix", "hybrid_attention", "experts")
BUDGET = 400.0  # seconds


@dataclass(frozen=True, slots=True)
class Options:
    """What to do.

    Attributes:
        seconds: for measuring.
        results: decide from these, of an earlier run, and measure nothing: a folder of gpu-suite or its suite.json.
        out: the file to write; None: the user's own for the GPU that was measured.
        dry: measure on the CPU, with Triton's interpreter and tiny shapes; nothing is written but `out`.
        commit: for the record.
    """

    seconds: float = BUDGET
    results: Path | None = None
    out: Path | None = None
    dry: bool = False
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """What was measured.

    Attributes:
        gpu: its name; "" where the results name none.
        dry: by a dry run.
        rows: by case.
        origin: commit and date by case.
    """

    gpu: str
    dry: bool
    rows: dict[str, list[dict[str, Any]]]
    origin: dict[str, tuple[str, str]]


def main(arguments: Sequence[str]) -> int:
    """The command by argparse alone; returns the exit status.

    Raises:
        InputError: see `tune`.
    """
    what = "Finds the tables of fast settings for this GPU."
    parser = argparse.ArgumentParser(prog=f"python -m slipstream.bench {NAME}", description=what)
    parser.add_argument("--seconds", type=float, default=BUDGET, help="for measuring (%(default)s)")
    parser.add_argument("--from", dest="results", type=Path, metavar="DIR", help="decide from a folder of gpu-suite, measure nothing")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file to write, in place of the user's own")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with Triton's interpreter and tiny shapes")
    parser.add_argument("--commit", default=os.environ.get("SLIPSTREAM_COMMIT"), help="for the record, where there is no repository")
    given = parser.parse_args(arguments)
    tune(Options(given.seconds, given.results, given.out, given.dry_run, given.commit), say=lambda text: print(text, flush=True))
    return 0


def tune(options: Options, say: Callable[[str], None] = print) -> Path | None:
    """Measures, or reads what was measured, decides, says what changes and writes the file; its path, None if nothing is written.

    Raises:
        InputError: no Triton, no GPU to measure, or results that cannot be read or say nothing.
    """
    if importlib.util.find_spec("triton") is None:
        raise InputError(f"{NAME}: triton is not installed, and the tables are about its kernels; pip install 'triton>=3.6,<3.7'")
    if options.results is None and not options.dry and not _device():
        raise InputError(
            f"{NAME}: nvidia-smi names no GPU here; give --from DIR with results of gpu-suite from a machine that has one, "
            "or --dry-run to see the command work"
        )
    folder = options.results or _measured(options, say)
    results = read(folder)
    if not any(results.rows.values()):
        raise InputError(f"from={folder}: has no rows of {', '.join(DECIDING)}; run gpu-suite with --only these")
    from slipstream.ops.triton import tuned  # after the interpreter was chosen

    found = decided(results, tuned.current(), say)
    path = options.out or (None if results.dry or not results.gpu else tuned.own_file(results.gpu))
    if path is None:
        say("nothing written: " + ("a dry run says nothing about a GPU" if results.dry else "the results name no GPU; give --out FILE"))
        return None
    tuned.write(path, results.gpu or "none", found)
    say(f"written: {path}")
    return path


def _device() -> str:
    from slipstream.ops.triton import tuned

    return tuned.device()


def _measured(options: Options, say: Callable[[str], None]) -> Path:
    """The folder of a run of the cases."""
    folder = Path(tempfile.mkdtemp(prefix="slipstream-tune-"))
    command = shlex.join(["python", "-m", "slipstream.bench", NAME, *(["--dry-run"] if options.dry else [])])
    runner.run(runner.Options(folder, DECIDING, options.seconds, options.dry, command=command, commit=options.commit), say)
    say(f"measured: {folder} (to decide again: --from {folder})")
    return folder


def read(path: Path) -> Results:
    """What a folder of gpu-suite, or a file of its results, says of the cases that decide.

    Raises:
        InputError: there are no results.
    """
    journal = Journal(path / "results.jsonl")
    file = path / "suite.json" if path.is_dir() else path
    try:
        suite = json.loads(file.read_text(encoding="utf-8")) if file.exists() or not journal.path.exists() else {}
        facts = {case["name"]: case for case in suite.get("cases", ())}
        gpus = (suite.get("machine") or {}).get("gpus") or ()
        rows = {name: record.rows for name, record in journal.cases().items()} or {name: case["rows"] for name, case in facts.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"from={path}: cannot be read: {type(error).__name__}: {error}; give a folder that gpu-suite wrote") from None
    today = datetime.now(UTC).isoformat(timespec="seconds")
    default = {key: str(suite.get(key) or other) for key, other in (("commit", "unknown"), ("date", today))}
    origin = {name: tuple(str(facts.get(name, {}).get(key, default[key])) for key in default) for name in rows}
    dry = bool(suite.get("dry_run"))
    return Results(gpus[0]["name"] if gpus and not dry else "", dry, {name: rows.get(name, []) for name in DECIDING}, origin)


def decided(results: Results, now: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """The tables `now` with what the results change; a table that was timed says by whom."""
    from slipstream.bench.gpu.deciding import decide
    from slipstream.ops.triton.tuned import Tuned, tables

    samples = {name: registry.load(CASES, name, "case").samples(rows) for name, rows in results.rows.items()}
    out, count = {}, 0
    for name, table in tables().items():
        cases = [case for case, some in samples.items() if any(one.table == name for one in some)]
        entries, changes = decide(table, now[name].entries, [one for case in cases for one in samples[case] if one.table == name])
        count += len(changes)
        for change in changes:
            say(shown(change))
        out[name] = now[name]
        if cases:
            commits, dates = zip(*(results.origin[case] for case in cases), strict=True)
            facts = {"case": cases, "commit": commits, "date": dates, "gpu": (results.gpu or "none",)}
            out[name] = Tuned(entries, {key: ", ".join(dict.fromkeys(values)) for key, values in facts.items()})
    timed = [name for name, rows in results.rows.items() if rows]
    say(f"{count} changes, by {', '.join(timed)}; not timed: {', '.join(name for name in DECIDING if name not in timed) or 'none'}")
    return out


def shown(change: Any) -> str:
    """A change as a line."""
    from slipstream.ops.triton.tuned import ALL

    rows = f"{change.above + 1} rows and more" if change.most == ALL else f"{change.above + 1} to {change.most} rows"
    column = f" {change.column}" if change.column else ""
    return f"{change.table}{column}, {rows}: {change.old} {change.old_us:.1f} us -> {change.new} {change.new_us:.1f} us"
