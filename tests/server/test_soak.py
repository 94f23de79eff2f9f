"""Many requests, some of them abandoned: nothing grows. Pages, texts, open files, memory of both processes."""

import random
from dataclasses import dataclass

import psutil
import pytest

from tests.server.harness import LONG, send, serving

COMPLETIONS = "/v1/completions"
LASTING = {**LONG, "max_tokens": 900}  # far longer than anybody stays
SEATS = 8 + 64  # texts that the server takes at once: those that run and those that wait
SMALL = ("--max-len", "1024", "--max-batch", "8", "--max-queue", "64")
MIB = 2**20


@dataclass(frozen=True)
class Footprint:
    """Open files of both processes, and the bytes of each."""

    files: int
    front: int
    engine: int

    @staticmethod
    def of(server) -> "Footprint":
        front, engine = psutil.Process(server.process.pid), server.engine
        return Footprint(front.num_fds() + engine.num_fds(), front.memory_info().rss, engine.memory_info().rss)

    @property
    def bytes(self) -> int:
        return self.front + self.engine


@pytest.fixture(scope="module")
def small(model, tmp_path_factory):
    """A server with little KV: its pages are given by the system as they are first used, which is no leak but grows like one."""
    with serving(tmp_path_factory.mktemp("small") / "log", model, *SMALL) as running:
        yield running


def settled(server) -> Footprint:
    """The footprint when nothing runs or waits and every page is free or remembered. A connection may take a moment to close."""
    server.until(server.idle, 10)
    server.client.close()  # its own connection is no leak
    server.__post_init__()
    server.get("/health/live")
    return Footprint.of(server)


def abandon(server, number: int) -> None:
    """Leaves at once, or after the first text; alone or with two samples."""
    connection = send(server, COMPLETIONS, {"prompt": f"number {number}", **LASTING, "n": 1 + number % 2})
    if number % 3 == 0:
        connection.recv(1000)
    connection.close()


def serve(server, first: int, count: int, abandoned: int) -> None:
    """Requests `first` and following; one of `abandoned` is left, the others get their four tokens."""
    for number in range(first, first + count):
        if number % abandoned == 0:
            abandon(server, number // abandoned)
        else:
            answer = server.post(COMPLETIONS, prompt=f"number {number}", max_tokens=4, ignore_eos=True)
            assert answer.json()["usage"]["completion_tokens"] == 4, answer.text
        if number % 40 == 39 and abandoned == 1:
            server.until(server.idle, 10)  # else the queue is full, which is another test's subject


def slope(values: list[float]) -> float:
    """Of the least-squares line through equally spaced values, per space."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    rise = sum((at - middle) * (value - mean) for at, value in enumerate(values))
    return rise / sum((at - middle) ** 2 for at in range(len(values)))


def nobody_is_left(server) -> None:
    """All seats can be taken at once: the front has forgotten nobody and remembers nobody."""
    assert server.post(COMPLETIONS, prompt=["the"] * SEATS, max_tokens=1).status_code == 200
    server.until(server.idle, 10)
    assert server.ready() and server.metric("engine_step_failures_total") == 0


def test_a_thousand_abandoned_requests(small):
    serve(small, 0, 80, abandoned=1)  # pools and caches fill
    before = settled(small)
    serve(small, 80, 1000, abandoned=1)
    after = settled(small)
    assert after.files <= before.files and after.bytes - before.bytes < 8 * MIB, (before, after)
    nobody_is_left(small)


def test_short_requests_with_a_tenth_abandoned(small):
    """The short form of the next one: allocators breathe, so only what is far too much fails here."""
    serve(small, 0, 100, abandoned=10)
    before = settled(small)
    serve(small, 100, 500, abandoned=10)
    after = settled(small)
    assert after.files <= before.files and after.bytes - before.bytes < 8 * MIB, (before, after)
    nobody_is_left(small)


@pytest.mark.slow
def test_ten_thousand_short_requests_with_a_tenth_abandoned(own):
    """The pool is small, so that what the prefix cache remembers is full soon and any growth after that is a leak."""
    seen = []
    with own(*SMALL) as server:
        for first in range(0, 10_000, 1000):
            serve(server, first, 1000, abandoned=10)
            seen.append(settled(server))
        nobody_is_left(server)
    later = seen[2:]  # the first two thousand fill pools and caches
    front, engine = (slope([getattr(each, name) / 1e6 for each in later]) for name in ("front", "engine"))
    print(f"MB per 1,000 requests: front {front:.3f}, engine {engine:.3f}; files {[each.files for each in seen]}")
    assert max(each.files for each in later) <= later[0].files and front + engine <= 1, seen


def test_the_slope_is_that_of_a_line():
    noise = random.Random(1)
    assert slope([3 + 2 * at for at in range(8)]) == pytest.approx(2)
    assert slope([5 + noise.uniform(-1, 1) for _ in range(1000)]) == pytest.approx(0, abs=0.01)
