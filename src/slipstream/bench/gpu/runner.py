"""The runner: cases by value, each in a process of its own, within one budget; what was measured is never lost.

Owns order, budget, restarts and the end of processes that do not end. Touches no device, so that a broken context dies with
its case.
"""

import importlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.bench.gpu import report
from slipstream.bench.gpu.ask import CASES, Ask
from slipstream.bench.gpu.child import main
from slipstream.bench.gpu.journal import DONE, FAILED, LEFT_OUT, PARTIAL, Journal, Record

BUDGET = 530.0  # seconds: a command on the lent machine may take 600
RESERVE = 4.0  # for the report
LEAST = 8.0  # a case is not begun with less
GRACE = 6.0  # past its deadline before a process is ended
RESTARTS = 8  # of one case, after points that crashed
PRELOAD = ("torch", "triton", "slipstream.bench.gpu.bench", "slipstream.bench.gpu.scenes", "slipstream.engine.llm")


@dataclass(frozen=True)
class Options:
    """What to run.

    Attributes:
        out: folder of results.jsonl, suite.json, table.md and log.txt; cases that are done there are not run again.
        only: cases; () is all.
        seconds: for everything.
        dry: on the CPU, in Triton's interpreter.
        published: see published.py.
        command, commit: for the record.
    """

    out: Path
    only: tuple[str, ...] = ()
    seconds: float = BUDGET
    dry: bool = False
    published: tuple[str, ...] = ()
    command: str = ""
    commit: str | None = None


def cases(only: Sequence[str] = ()) -> list[tuple[str, ModuleType | Exception]]:
    """(name, module) by value. One that cannot be imported is kept with its error, at the end."""
    out: list[tuple[str, ModuleType | Exception]] = []
    for name in only or registry.names(CASES):
        try:
            out.append((name, registry.load(CASES, name, "case")))
        except Exception as error:  # one broken case is a line of the result
            out.append((name, error))
    return sorted(out, key=lambda entry: getattr(entry[1], "ORDER", 10**6))


def run(options: Options, say: Callable[[str], None] = print) -> Path:
    """Runs what is not done yet; returns the table's path.

    Raises:
        InputError: an unknown case, or a folder that cannot be written.
    """
    deadline = time.monotonic() + options.seconds - RESERVE
    known = registry.names(CASES)
    for name in options.only:
        if name not in known:
            raise registry.unknown("only", name, known)
    if options.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    preload(say)
    chosen = cases(options.only)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out={options.out}: cannot be made: {error}") from None
    journal = Journal(options.out / "results.jsonl")
    for number, (name, case) in enumerate(chosen):
        before = journal.cases_called(name)
        if before.status == DONE:
            say(f"{name}: done before")
            continue
        if isinstance(case, Exception):
            _broken(journal, name, case)
        else:
            later = [other for _, other in chosen[number + 1 :]]
            seconds = share(case, later, deadline - time.monotonic())
            if seconds < LEAST and not (options.dry and seconds > 1):
                journal.write(name, "left", text="the whole case: the budget was spent")
                journal.write(name, "end", status=before.status if before.rows else LEFT_OUT, seconds=0.0)
            else:
                one(name, options, journal, before, time.monotonic() + seconds)
        record = journal.cases_called(name)
        say(line(record, deadline - time.monotonic()))
        report.write(options, journal)
    return report.write(options, journal)


def share(case: ModuleType, later: Sequence[ModuleType | Exception], left: float) -> float:
    """Seconds for a case: what it asks for, more where the rest needs less than is left, never more than is left."""
    asked = case.SECONDS + sum(getattr(other, "SECONDS", 0) for other in later)
    return min(left, case.SECONDS * max(1.0, left / asked))


def preload(say: Callable[[str], None]) -> None:
    """Imports once what every case needs; forked processes then start in no time. What cannot be imported is each case's to tell."""
    began = time.monotonic()
    for name in PRELOAD:
        try:
            importlib.import_module(name)
        except Exception as error:
            say(f"{name} cannot be imported: {type(error).__name__}: {error}")
    say(f"imports took {time.monotonic() - began:.1f} s")


def one(name: str, options: Options, journal: Journal, before: Record, deadline: float) -> None:
    """Runs a case to its end; after a crash again, without the point that crashed, as long as that gets anywhere."""
    skip = list(before.done)
    for attempt in range(1 + RESTARTS):
        began = time.monotonic()
        ask = Ask(name, options.dry, deadline, tuple(skip), options.published)
        status = fork(ask, options.out, attempt > 0, deadline + GRACE)
        if status == 0:
            return
        record = journal.cases_called(name)
        hanging = [point for point in record.begun if point not in (*record.done, *skip)]
        known = {point for point, _ in record.failures}
        why = f"the process ended with {ending(status)}; see log.txt"
        for point in hanging:
            if point not in known:
                journal.write(name, "failure", point=point, text=why)
        if not hanging:
            journal.write(name, "failure", point="the case", text=why)
        over = not hanging or deadline - time.monotonic() < LEAST or attempt == RESTARTS
        if over:
            status = PARTIAL if record.rows else FAILED
            journal.write(name, "end", status=status, seconds=time.monotonic() - began)
            return
        skip = list(dict.fromkeys([*skip, *record.begun]))


def fork(ask: Ask, out: Path, again: bool, deadline: float) -> int | None:
    """Runs `ask` in a forked process; its exit status (below 0: the signal that ended it), None if it had to be ended."""
    process = multiprocessing.get_context("fork").Process(target=main, args=(ask, out / "results.jsonl", out / "log.txt", again))
    process.start()
    try:
        process.join(max(0.1, deadline - time.monotonic()))
    except BaseException:  # Ctrl-C, which the child's group does not hear
        end(process)
        raise
    if not process.is_alive():
        return process.exitcode
    end(process)
    return None


def end(process: multiprocessing.Process) -> None:
    """Ends a case with all that it started; a process that the driver holds on to even then is left to the system."""
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 3.0)):
        try:
            os.killpg(process.pid, number)  # the child leads a group of its own
        except ProcessLookupError:
            break
        process.join(patience)
        if not process.is_alive():
            break


def ending(status: int | None) -> str:
    if status is None:
        return "its time up (it was ended)"
    return f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"


def line(record: Record, left: float) -> str:
    """What the terminal shows of a case."""
    text = f"{record.name}: {record.status}, {len(record.rows)} rows, {record.seconds:.1f} s"
    text += f", {len(record.failures)} failures" if record.failures else ""
    return f"{text}  ({left:.0f} s left)"


def _broken(journal: Journal, name: str, error: Exception) -> None:
    journal.write(name, "start", again=False, dry=False)
    journal.write(name, "failure", point="the case", text=f"cannot be imported: {type(error).__name__}: {str(error)[:400]}")
    journal.write(name, "end", status=FAILED, seconds=0.0)
