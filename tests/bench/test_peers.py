"""Other engines: the pipes to them, what becomes of one that fails, and what the figures mean. The engines here are made up."""

import ast
import json
import os
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slipstream import LLM, SamplingParams
from slipstream.arch import shape
from slipstream.base import registry
from slipstream.base.errors import BackendError, InputError
from slipstream.bench import comparison, made_weights, peer, results
from slipstream.bench.comparison import OWN, PEERS, Ask
from slipstream.bench.peer import Peer
from slipstream.cost import Work
from slipstream.engine.meter import StepRecord

HEAD = "import os, sys, time\nPACKAGE, WEIGHTS, NOTE = 'nothing', 'gguf', 'made up'\n"
SESSION = """
class Session:
    def __init__(self, weights, threads, batch, length):
        print("a banner on stdout")
        self.facts = {"weights": weights, "threads": str(threads), "sizes": f"{batch} {length}", "omp": os.environ["OMP_NUM_THREADS"]}
    def prompt(self, tokens):
        return {"seconds": 2.0, "first": tokens[0]}
    def decode(self, prompts, steps):
        return {"seconds": 0.5, "tokens": steps * len(prompts)}
"""


LOAD, PROMPT, DECODE = 'print("a banner on stdout")', 'return {"seconds": 2.0', 'return {"seconds": 0.5'


def session(before: str, what: str) -> str:
    """An engine that does `what` before it says, or returns, the line that begins with `before`."""
    assert before in SESSION
    return HEAD + SESSION.replace(before, f"{what}\n        {before}")


FAKES = {
    "good": HEAD + SESSION,
    "hangs": session(PROMPT, "time.sleep(60)"),
    "crashes": session(DECODE, "print('out of luck'); sys.stdout.flush(); os._exit(3)"),
    "late": session(DECODE, "if steps > 2: os._exit(3)"),
    "aborts": session(LOAD, "os.abort()"),
    "raises": session(PROMPT, "raise ValueError('no such token')"),
    "missing": session(LOAD, "import there_is_no_such_engine"),
    "forks": session(LOAD, "import subprocess; threads = subprocess.Popen(['sleep', '60']).pid"),
    "timeless": session(PROMPT, "return {'seconds': 0.0, 'first': 1}"),
}


@pytest.fixture
def start(tmp_path):
    """Starts a made-up engine; ends it after the test."""
    started = []

    def start(name, **seconds):
        path = tmp_path / f"{name}.py"
        path.write_text(FAKES[name])
        started.append(Peer(name, Path(sys.executable), path, 2, **seconds))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_turns(start):
    good = start("good")
    assert good.load(Path("/some/file"), 2, 4, 100) == {"weights": "/some/file", "threads": "2", "sizes": "4 100", "omp": "2"}
    long = list(range(7, 50_000))  # more than a pipe holds
    assert good.prompt(long) == {"seconds": 2.0, "first": 7}
    assert good.decode([[1], [2]], 5) == {"seconds": 0.5, "tokens": 10}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("crashes", "crashes: ended with status 3 during 'decode'; it said: a banner on stdout\nout of luck"),
        ("raises", "raises: prompt failed: ValueError: no such token"),
    ],
)
def test_a_failing_turn_is_said(start, name, message):
    bad = start(name)
    bad.load(Path("x"), 2, 1, 1)
    with pytest.raises(BackendError, match=message):
        bad.prompt([1])
        bad.decode([[1]], 1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("aborts", "aborts: ended with signal 6 during 'load'"),
        ("missing", "missing: load failed: ModuleNotFoundError: No module named 'there_is_no_such_engine'"),
    ],
)
def test_one_that_cannot_load_is_said(start, name, message):
    with pytest.raises(BackendError, match=message):
        start(name).load(Path("x"), 2, 1, 1)


def test_one_that_hangs_is_ended(start):
    hanging = start("hangs", turn_seconds=0.5)
    hanging.load(Path("x"), 2, 1, 1)
    began = time.monotonic()
    with pytest.raises(BackendError, match="hangs: no answer to 'prompt' within 0.5 s; it was ended; it said: a banner on stdout"):
        hanging.prompt([1])
    hanging.close()
    assert time.monotonic() - began < 10


def test_nothing_of_it_stays_behind(start):
    forking = start("forks")
    child = int(forking.load(Path("x"), 2, 1, 1)["threads"])
    os.kill(child, 0)
    forking.close()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "the child of a peer runs on"
        time.sleep(0.05)


def test_an_answer_that_is_none_is_said(start, tmp_path, monkeypatch):
    talk = tmp_path / "talk.py"
    talk.write_text("print('hello', flush=True)\ninput()\n")
    monkeypatch.setattr(peer, "TURNS", talk)
    with pytest.raises(BackendError, match="good: answered 'load' with b'hello.n', not with a line of JSON"):
        start("good").load(Path("x"), 2, 1, 1)


def test_a_python_that_is_none(tmp_path):
    with pytest.raises(InputError, match="has no bin/python; make it with python3 -m venv"):
        peer.python_of(tmp_path)
    with pytest.raises(BackendError, match="it: .*/nothing cannot be started"):
        Peer("it", tmp_path / "nothing", tmp_path, 1)


@pytest.mark.parametrize("name", registry.names(PEERS))
def test_every_peer_has_what_the_driver_reads(name):
    module = registry.load(PEERS, name)
    assert module.PACKAGE and module.NOTE and module.WEIGHTS in ("gguf", "folder")
    assert callable(module.Session.prompt) and callable(module.Session.decode)


@pytest.mark.parametrize("path", [*sorted(Path(registry.load(PEERS, OWN).__file__).parent.glob("*.py"))], ids=lambda path: path.name)
def test_peers_import_nothing_of_slipstream(path):
    tree = ast.parse(path.read_text())
    at_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    named = {id(node): [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]
             for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}  # fmt: skip
    assert all(name.partition(".")[0] in sys.stdlib_module_names for node in at_top for name in named[id(node)])
    if path.stem != OWN:
        assert not [name for names in named.values() for name in names if name.startswith(("slipstream", "."))]


def test_a_real_engine(tmp_path):
    pytest.importorskip("transformers")
    folder = made_weights.bf16_folder("tiny", tmp_path)
    with Peer("transformers", Path(sys.executable), Path(registry.load(PEERS, "transformers").__file__), 1) as real:
        assert {"version", "threads"} <= set(real.load(folder, 1, 2, 32))
        done = real.prompt([5, 17, 300])
        llm = LLM(folder, kernels="reference", max_batch=1, max_len=64)
        [own] = llm.generate([[5, 17, 300]], SamplingParams(max_tokens=1, temperature=0))
        llm.close()
        assert done["seconds"] > 0 and done["first"] == own.outputs[0].token_ids[0]
        done = real.decode([[5, 17], [300, 2]], 3)
        assert done["seconds"] > 0 and done["tokens"] == 6


@pytest.fixture
def venv(tmp_path) -> Path:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path / "venv"


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """The real Slipstream among made-up engines."""
    package = tmp_path / f"fakes_{os.getpid()}_{tmp_path.name}"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in {**FAKES, OWN: Path(registry.load(PEERS, OWN).__file__).read_text()}.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(comparison, "PEERS", package.name)


def test_a_comparison(fakes, venv, tmp_path, known_machine):
    pytest.importorskip("gguf")
    said, names = [], ("good", "crashes", "missing", "timeless")
    ask = Ask("tiny", dict.fromkeys(names, venv), batch=(3,), prompt_tokens=(20, 40), new_tokens=4, repeat=2, threads=2)
    found = comparison.run(ask, tmp_path / "weights", said.append)
    failures = {one.name: one.failure for one in found.runners}
    assert failures[OWN] is None and failures["good"] is None
    assert "status 3" in failures["crashes"] and "there_is_no_such_engine" in failures["missing"]
    assert "timeless: measured 0.0 seconds" in failures["timeless"]
    assert sum(line.startswith("left out: ") for line in said) == 3
    assert [list(turns) for turns in found.places[0].turns] == [[OWN, "good"], ["good", OWN]], "who begins changes"
    prompt, _, decode = found.places
    assert [turn[OWN]["tokens"] for turn in decode.turns] == [3 * 4] * 2, "every step after the prompts, and no other"
    assert prompt.rate("good") == 20 / 2.0 and decode.rate("good") == 3 * 4 / 0.5
    assert decode.rate("missing") is None and decode.ratio("missing") is None and decode.agreeing("good") is None
    for place in found.places:
        rates = [turn[OWN]["tokens"] / turn[OWN]["seconds"] / (turn["good"]["tokens"] / turn["good"]["seconds"]) for turn in place.turns]
        assert place.ratio("good") == pytest.approx(sum(rates) / 2) and place.rate(OWN) > 0
        assert len(place.limit.readings) == 3
    firsts = [turn["good"]["first"] for turn in prompt.turns]
    assert firsts == [prompt.point.prompts(512, seed)[0][0] for seed in (0, 1)], "everybody is given the same tokens"
    record = json.loads(json.dumps(results.comparison_record(found, "slipstream bench peers")))
    assert record["engines"]["missing"]["failure"] and record["engines"]["good"]["facts"]["threads"] == "2"
    last = record["points"][2]
    assert record["case"] == "peers" and last["what"] == "decode" and last["ratio"]["good"] == decode.ratio("good")
    assert results.write(record, tmp_path).name.endswith("-peers-tiny.json")


def test_one_that_fails_on_the_way_keeps_what_it_measured(fakes, venv, tmp_path, known_machine):
    pytest.importorskip("gguf")
    found = comparison.run(Ask("tiny", {"late": venv}, batch=(1,), prompt_tokens=(8,), new_tokens=4, repeat=2), tmp_path / "weights")
    prompt, decode = found.places
    assert prompt.rate("late") == 4.0 and len([turn for turn in prompt.turns if "late" in turn]) == 1 and decode.rate("late") is None


def test_ctrl_c_keeps_whole_repetitions(fakes, tmp_path, known_machine, monkeypatch):
    pytest.importorskip("gguf")
    turn, turns, said = comparison._turn, [], []

    def interrupted(peer, point, prompts):
        turns.append(point)
        if len(turns) == until:
            raise KeyboardInterrupt
        return turn(peer, point, prompts)

    monkeypatch.setattr(comparison, "_turn", interrupted)
    ask = Ask("tiny", batch=(1,), prompt_tokens=(8,), new_tokens=2, repeat=9)
    until = 8  # 2 to warm up, 2 in each repetition: in the second half of the third
    found = comparison.run(ask, tmp_path / "weights", said.append)
    assert [len(place.turns) for place in found.places] == [2, 2] and "interrupted: 2 of 9 repetitions are kept" in said
    assert found.places[0].rate(OWN) > 0
    turns.clear()
    until = 4  # in the first
    with pytest.raises(KeyboardInterrupt):
        comparison.run(ask, tmp_path / "weights")


def test_what_is_possible_follows_from_the_probes(fakes, tmp_path, known_machine):
    pytest.importorskip("gguf")
    found = comparison.run(Ask("tiny", batch=(2,), prompt_tokens=(64,), new_tokens=4, repeat=1), tmp_path / "weights")
    prompt, decode = found.places
    cost = prompt.limit.cost(StepRecord(Work.of([(0, 64, ())], 1), 1, 1, 0.0))
    assert cost.weights == found.bytes + 64 * found.spec.hidden * 2  # and the rows of the embedding table that the tokens take
    assert prompt.possible() == pytest.approx(64 / (sum(cost.operations.values()) / 100e9))
    cost = decode.limit.cost(StepRecord(Work.of([(18, 1, ())] * 2, 2), 2, 2, 0.0))
    assert decode.possible() == pytest.approx(2 / (cost.bytes / 10e9))


def test_who_else_is_there(tmp_path, monkeypatch, fakes, known_machine):
    pytest.importorskip("gguf")
    stat, ticks = tmp_path / "stat", iter(((0, 0), (30, 50), (30, 50), (100, 120)))  # idle, busy; half of the busy ones are stolen

    def later(seconds):
        idle, other = next(ticks)
        stat.write_text(f"cpu  {other} 0 0 {idle} 0 0 0 {other} 7 7\ncpu0 1 1 1 1\n")

    monkeypatch.setattr(comparison, "STAT", stat)
    monkeypatch.setattr(comparison.time, "sleep", later)
    later(0)
    assert comparison.busy(1) == pytest.approx(100 / 130)
    assert comparison.busy(1) is None, "no time passed"
    assert comparison.busy(1) == pytest.approx(140 / 210)
    stat.write_text("something else\n")
    monkeypatch.setattr(comparison.time, "sleep", lambda seconds: None)
    assert comparison.busy(1) is None
    shares = iter((0.04, 0.5, 0.5))
    monkeypatch.setattr(comparison, "busy", lambda seconds: next(shares))
    found = comparison.run(Ask("tiny", batch=(), prompt_tokens=(8,), new_tokens=2, repeat=3), tmp_path / "weights")
    assert found.places[0].busy == [0.04, 0.5, 0.5] and found.disturbed() == 0.5
    found.places[0].busy = [0.04, 0.04, 0.5]
    assert found.disturbed() is None


def test_wrong_asks(venv):
    for ask, message in (
        (Ask("tiny", {"llama_cp": venv}, prompt_tokens=()), "did you mean 'llama_cpp'"),
        (Ask("tiny", {OWN: venv}, prompt_tokens=()), "takes part always"),
        (Ask("tiny", {"vllm": venv / "bin"}, prompt_tokens=()), "has no bin/python"),
        (Ask("tiny", batch=(0,)), "batch=0: must be at least 1"),
        (Ask("tiny", new_tokens=1), "new_tokens=1: must be at least 2"),
        (Ask("tiny", prompt_tokens=(4096,)), "none beyond 2048 positions"),
        (Ask("tiny", batch=(), prompt_tokens=()), "need a point"),
    ):
        with pytest.raises(InputError, match=message):
            comparison.run(ask)
    assert len(Ask("tiny").points(shape("llama-3.2-1b"))) == 8


def test_the_command(fakes, venv, tmp_path, known_machine, monkeypatch):
    pytest.importorskip("gguf")
    from slipstream.cli.main import app

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    grid = ["--shape", "tiny", "--batch", "2", "--prompt-tokens", "8", "--new-tokens", "3", "--repeat", "1", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["bench", "peers", *grid, "--peer", f"good={venv}", "--peer", f"missing={venv}"], terminal_width=100)
    assert done.exit_code == 1, done.output
    for words in ("decode 2", "x as fast", "left out: missing: load failed", "python -m pip install nothing", "not asked for: aborts"):
        assert words in done.stdout, done.stdout
    assert len(list((tmp_path / "out").iterdir())) == 1
    done = CliRunner().invoke(app, ["bench", "peers", *grid])
    assert done.exit_code == 0 and "left out" not in done.output
    for arguments, words in (
        (["--peer", "good"], "for instance llama_cpp=./llama-venv"),
        (["--peer", f"good={venv}", "--peer", f"good={venv}"], "names an engine twice"),
    ):
        done = CliRunner().invoke(app, ["bench", "peers", *grid, *arguments])
        assert done.exit_code == 2 and words in done.stderr
