"""The load test of a server: what its times say, the turns of our own server and of another, and that nothing is left behind."""

import json
import subprocess
import sys
import time

import psutil
import pytest
from typer.testing import CliRunner

from slipstream.base import native
from slipstream.base.errors import BackendError, InputError
from slipstream.bench.group import bench
from slipstream.bench.load import Order, Reply, Volley
from slipstream.bench.own_server import OwnServer
from slipstream.bench.serving import Ask, Batch, Serving, Turn, sized
from slipstream.bench.traces import Entry
from tests.bench.test_load import STREAM, Script, token, usage
from tests.tools.package import environment

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")


@pytest.fixture(autouse=True)
def package(monkeypatch):
    """Servers that a test starts run the package that it imports."""
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


def turn(replies: list[Reply], open: bool = False, dues: tuple[float, ...] = (0.0,) * 9) -> Turn:
    orders = [Order([1], reply.tokens or 1, due) for reply, due in zip(replies, dues, strict=False)]
    return Turn(orders, Volley(replies, 4.0, 0.02), open, {})


def test_waits_of_a_turn():
    replies = [Reply(1.0, (1.5, 2.0, 4.0), 3), Reply(0.5, (3.5,), 1), Reply(0.0, (1.0, 9.0), 0, "failed")]
    closed, opened = turn(replies), turn(replies, True, (0.75, 0.25, 0.0))
    closed.cpu["front"] = 2.0
    assert closed.rate == 1.0 and closed.token_cpu("front") == 0.5 and closed.errors() == ["failed"]
    assert closed.waits() == {"first_token_s": [0.5, 3.0], "between_tokens_s": [0.5, 2.0], "whole_s": [3.0, 3.0]}
    assert opened.waits()["first_token_s"] == [0.75, 3.25] and (opened.lateness(), closed.lateness()) == (0.25, 0.0)


def test_only_waits_in_the_time_of_the_prompt_are_beside_it():
    arrived = turn([Reply(0.0, (1.0, 2.5, 4.5, 9.0), 4), Reply(0.0, (2.5, 3.5), 2), Reply(1.5, (4.0,), 1)])
    assert arrived.waits_beside() == [1.5, 2.0, 1.0]
    assert turn([Reply(0.0, (1.0, 2.0), 2), Reply(1.5, (), 0, "failed")]).waits_beside() == []


def test_figures_are_medians_over_turns():
    turns = [turn([Reply(0.0, (wait, 2 * wait), 2)]) for wait in (1.0, 3.0, 2.0)]
    found = Serving(Ask(), None, turns, offline=[Batch(rate, 2.0, 0.1) for rate in (1.0, 0.5, 0.25)])
    assert found.ratio == 1.0 and found.quantiles()["first_token_s"] == {0.5: 2.0, 0.9: 2.0, 0.99: 2.0}
    assert "beside_s" not in found.quantiles()


def test_arrivals():
    entries = [Entry(5, 5, at) for at in (0.0, 8.0, 4.0)]
    assert Ask().times(entries, "") == [0.0] * 3
    assert Ask(trace="t", replay=4.0).times(entries, "") == [0.0, 1.0, 2.0]
    poisson = Ask(rate=50.0).times([Entry(5, 5)] * 4000, "1 seed")
    assert poisson == sorted(poisson) and poisson != Ask(rate=50.0).times([Entry(5, 5)] * 4000, "2 seed")
    assert poisson[-1] == pytest.approx(80, rel=0.1)


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"rate": 0.0}, "rate=0.0: must be above 0"),
        ({"rate": 1.0, "replay": 1.0}, "one of them"),
        ({"replay": 1.0}, "needs the trace"),
        ({"rate": 1.0, "arriving": 5}, "arriving=5"),
        ({"url": "http://x", "model": "m"}, "leave out ours"),
    ],
)
def test_what_contradicts_itself_is_refused(asked, said):
    with pytest.raises(InputError, match=said):
        Ask(**asked)


def test_the_engine_is_just_large_enough():
    entries = [Entry(10, 5), Entry(3, 20)]
    assert sized(Ask(clients=4, arriving=50), entries) == {"max_batch": 5, "max_len": 51}
    assert sized(Ask(rate=1.0, options={"max_len": 99}), entries) == {"max_len": 99}
    with pytest.raises(InputError, match="max_len=20: the longest request has 23"):
        sized(Ask(options={"max_len": 20}), entries)


def run(*arguments: str):
    return CliRunner().invoke(bench, ["serve", *arguments])


@pytest.fixture
def nothing_stays():
    """Whatever a test starts has ended with it; other tests of the same process may have servers of their own."""
    before = set(psutil.Process().children(recursive=True))
    yield
    assert not set(psutil.Process().children(recursive=True)) - before


@pytest.mark.usefixtures("nothing_stays")
def test_our_own_server_beside_its_engine(folder, tmp_path):
    asked = ("--clients", "2", "--prompt-tokens", "9", "--new-tokens", "6", "--arriving", "20", "--repeat", "1", "--threads", "1")
    done = run(str(folder), *asked, "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    for words in ("first token", "of the same engine offline", "of the limit", "of a token in ms: offline"):
        assert words in done.output
    (path,) = tmp_path.iterdir()
    result = json.loads(path.read_text())
    [served], [offline], [arrived] = result["turns"], result["offline"], result["arrivals"]
    assert (served["requests"], served["new_tokens"], served["errors"]) == (4, 24, []) and arrived["new_tokens"] == 13
    assert result["ratio"] == served["tokens_per_s"] / offline["tokens_per_s"]
    assert 0 < len(served["waits"]["between_tokens_s"]) <= 4 * 5  # a front that has fallen behind sends several tokens in one event
    assert len(served["waits"]["whole_s"]) == 4 and set(served["server_cpu_s"]) == {"front", "engine"}


def test_another_server_and_what_it_refuses(tmp_path):
    refused = b"HTTP/1.1 429 Busy\r\ncontent-length: 4\r\n\r\nfull"
    good = [STREAM, token(), usage(1)]
    with Script(*[good] * 4, [refused], good) as script:  # three to warm up
        asked = ("--url", script.url, "--served-model", "m", "--api-key", "secret", "--rate", "200", "--requests", "3", "--new-tokens", "1")
        done = run(*asked, "--repeat", "1", "--out", str(tmp_path))
    assert done.exit_code == 1 and "1 requests failed: HTTP 429: full" in done.output and "ms late" in done.output
    text = next(tmp_path.iterdir()).read_text()
    assert json.loads(text)["ratio"] is None and "secret" not in text


@pytest.mark.usefixtures("nothing_stays")
def test_a_server_that_does_not_start():
    with pytest.raises(BackendError, match="no-such-folder"):
        OwnServer("./no-such-folder", {})


def test_what_it_started_ends_with_it(folder, tmp_path):
    endless = ("--prompt-tokens", "4", "--new-tokens", "40", "--requests", "1000000", "--clients", "1", "--out", str(tmp_path))
    command = [sys.executable, "-m", "slipstream.bench", "serve", str(folder), *endless]
    process = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), start_new_session=True)
    family, until = [], time.monotonic() + 60
    while len(family) < 2 and time.monotonic() < until:
        family = process.children(recursive=True)
        time.sleep(0.05)
    assert len(family) >= 2, process.stdout.read()
    process.terminate()
    process.wait(30)
    assert not psutil.wait_procs(family, 5)[1] and not list(tmp_path.iterdir())
