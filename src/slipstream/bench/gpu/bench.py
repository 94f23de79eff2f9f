"""Bench: what a case gets. Owns points (begun, done, given up), the guard against hangs and the way of figures to the journal.

Must not know any case.
"""

import faulthandler
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, TypeVar

import torch

from slipstream.bench.gpu.ask import DEVICE_LOST, Ask
from slipstream.bench.gpu.clock import Clock
from slipstream.bench.gpu.journal import DONE, FAILED, PARTIAL, Journal
from slipstream.bench.gpu.limits import Limits, probe
from slipstream.bench.gpu.published import Published

T = TypeVar("T")
RECENT = 3  # points whose times say how long the next one may take


class Unavailable(Exception):
    """This cannot be measured here; says why and what was done instead. Not a failure."""


class Bench:
    """One case's view of the suite.

    Attributes:
        dry: no device; choose tiny shapes, and call `unavailable` where nothing can stand in for one.
        device: "cuda" or "cpu".
        clock: times calls.
        published: other people's figures.
    """

    def __init__(self, ask: Ask, journal: Journal):
        self.ask, self.journal = ask, journal
        self.dry, self.device = ask.dry, "cpu" if ask.dry else "cuda"
        self.clock = Clock(self.device)
        self.status = DONE
        self._point = ""
        self._recent: deque[float] = deque(maxlen=RECENT)

    @property
    def remaining(self) -> float:
        """Seconds that the case still has."""
        return self.ask.deadline - time.monotonic()

    @cached_property
    def published(self) -> Published:
        return Published(self.ask.published)

    def limits(self) -> Limits:
        """Bandwidth and bf16 peak of this device, probed now; kept as rows, so that every figure lies beside its limit."""
        found = probe(self.clock, self.dry)
        self.journal.write(self.ask.case, "note", text=f"limit probed in this process: {found}", limits=asdict(found))
        return found

    def pick(self, real: T, dry: T) -> T:
        """`real` on a device, `dry` without."""
        return dry if self.dry else real

    def each(self, points: Sequence[T], label: Callable[[T], str], measure: Callable[[T], None]) -> None:
        """Measures point after point: a failure is a line, a crash or hang costs that point only, and before the time is up
        the rest is left out and named."""
        for number, point in enumerate(points):
            name = label(point)
            if name in self.ask.skip:
                continue
            if self.remaining < max(1.0, 1.3 * max(self._recent, default=0.0)):
                left = [label(other) for other in points[number:]]
                text = f"{len(left)} of {len(points)} points: {', '.join(left[:6])}{' ...' if len(left) > 6 else ''}"
                self.journal.write(self.ask.case, "left", text=text)
                self.status = PARTIAL
                return
            self._measure(name, lambda point=point: measure(point))

    def one(self, name: str, measure: Callable[[], None]) -> None:
        """`each` for a single point."""
        self.each([name], str, lambda _: measure())

    def row(self, **figures: Any) -> None:
        """A row of the case's table. Figures that are lists or dicts are kept in the file and not shown."""
        self.journal.write(self.ask.case, "row", point=self._point, row=figures)

    def note(self, text: str) -> None:
        self.journal.write(self.ask.case, "note", text=text)

    def unavailable(self, what: str, why: str) -> None:
        """Says that `what` was not measured here; the point counts as done."""
        self.journal.write(self.ask.case, "unavailable", point=self._point, text=why if what == self._point else f"{what}: {why}")

    def failure(self, what: str, error: BaseException | str) -> None:
        """Says that `what` went wrong; the case goes on."""
        text = error if isinstance(error, str) else _line(error)
        self.journal.write(self.ask.case, "failure", point=what, text=text)
        self.status = PARTIAL

    def _measure(self, name: str, measure: Callable[[], None]) -> None:
        self._point = name
        self.journal.write(self.ask.case, "begin", point=name)
        began = time.monotonic()
        limit = max(1.0, min(self.ask.point_seconds, self.remaining))
        faulthandler.dump_traceback_later(limit, exit=True)  # a thread of its own in C: ends a process that hangs in a kernel too
        try:
            measure()
            self.clock.synchronize()
        except Unavailable as reason:
            self.unavailable(name, str(reason))
        except Exception as error:  # the suite's promise: a failure is one line of the result
            traceback.print_exc()
            self.failure(name, error)
            self._recover()
            return
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._recent.append(time.monotonic() - began)
        self.journal.write(self.ask.case, "point", point=name, seconds=time.monotonic() - began)

    def _recover(self) -> None:
        """After a failure: memory back, and a fresh process if the device no longer answers this one."""
        if self.device != "cuda":
            return
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.zeros(1, device="cuda").item()
        except Exception:  # whatever CUDA says here, this process is of no more use
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(DEVICE_LOST)


def run(measure: Callable[[Bench], None], bench: Bench) -> str:
    """Runs a case to its end; returns its status."""
    try:
        measure(bench)
    except Exception as error:  # outside of any point: the case itself is broken, or its setting up failed
        traceback.print_exc()
        bench.failure("the case", error)
        return FAILED
    return bench.status


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:400]}"
