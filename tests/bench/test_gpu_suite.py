"""The GPU suite without a GPU: a whole dry run, and cases that crash, hang, fail or run out of time cost only themselves.

In processes of their own: Triton's interpreter is chosen for a whole process, and the suite forks.
"""

import contextlib
import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from slipstream.base import registry
from slipstream.bench.gpu import report
from slipstream.bench.gpu.ask import CASES
from slipstream.bench.gpu.journal import DONE, FAILED, LEFT_OUT, PARTIAL, Journal
from slipstream.bench.gpu.published import Published
from tests.tools.package import environment

NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def python(*arguments: str, path: Path | None = None, timeout: float = 200) -> subprocess.CompletedProcess:
    lean = environment(*([path] if path else []), OMP_NUM_THREADS="1")
    lean.pop("SLIPSTREAM_SHARED", None)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=lean, timeout=timeout)


@pytest.fixture(scope="module")
def dry(tmp_path_factory) -> Path:
    """One dry run of everything, where typer, rich and pydantic cannot be imported."""
    folder = tmp_path_factory.mktemp("suite")
    missing = "import sys\nfor name in ('typer', 'rich', 'pydantic', 'psutil'): sys.modules[name] = None\n"
    start = f"{missing}sys.argv[1:] = ['gpu-suite', '--dry-run', '--out', {str(folder)!r}]\n"
    done = python("-c", start + "import runpy; runpy.run_module('slipstream.bench', run_name='__main__', alter_sys=True)")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@NEEDS_TRITON
class TestDryRun:
    def test_every_case_is_done(self, dry):
        suite = json.loads((dry / "suite.json").read_text())
        assert {case["name"] for case in suite["cases"]} == set(registry.names(CASES))
        wrong = {case["name"]: (case["status"], case["failures"], case["left"]) for case in suite["cases"] if case["status"] != DONE}
        assert not wrong, f"{wrong}\n{(dry / 'log.txt').read_text()[-4000:]}"
        assert all(case["rows"] and case["question"] and case["answer"] for case in suite["cases"])

    def test_the_file_says_what_it_is(self, dry):
        suite = json.loads((dry / "suite.json").read_text())
        assert suite["schema"] == report.SCHEMA and suite["dry_run"] is True
        assert {"date", "command", "commit", "versions", "machine", "budget_s"} <= set(suite)
        assert suite["versions"]["torch"] and "gpu-suite --dry-run" in suite["command"]

    def test_timed_rows_keep_every_raw_figure(self, dry):
        for case in json.loads((dry / "suite.json").read_text())["cases"]:
            for row in case["rows"]:
                if "timed" in row:
                    assert row["raw"] and row["timed"] == "wall", case["name"]

    def test_every_op_and_every_design_was_asked(self, dry):
        from slipstream.ops.types import FAMILY_OPS, OPS, ROUND_OPS

        cases = {case["name"]: case for case in json.loads((dry / "suite.json").read_text())["cases"]}
        correctness = cases["op_correctness"]["rows"]
        layers = {f"linear_{name}" for name in ("fp32", "bf16", "int8", "q8_0", "int4")}
        assert {row["op"] for row in correctness} >= {*OPS, *ROUND_OPS, *FAMILY_OPS, *layers}
        assert all(row["right"] and row["repeats"] for row in correctness)
        invariance = cases["row_invariance"]
        tiled = [row for row in invariance["rows"] if row["what"].startswith(("tiled", "designs"))]
        assert len(tiled) == 5 and all(row["invariant"] for row in tiled)
        assert [row["invariant"] for row in invariance["rows"] if row["what"] == "packed_int4"] == [True]
        assert any("gemlite" in point for point, _ in invariance["unavailable"])

    def test_the_table_can_be_read(self, dry):
        text = (dry / "table.md").read_text()
        assert "DRY RUN" in text and "## What it says" in text
        for name in registry.names(CASES):
            assert f"## {name}: done" in text

    def test_a_second_call_does_nothing(self, dry):
        before = (dry / "results.jsonl").read_bytes()
        done = python("-m", "slipstream.bench", "gpu-suite", "--dry-run", "--out", str(dry))
        assert done.returncode == 0 and done.stdout.count("done before") == len(registry.names(CASES))
        assert (dry / "results.jsonl").read_bytes() == before

    def test_an_unknown_case_is_named(self, tmp_path):
        done = python("-m", "slipstream.bench", "gpu-suite", "--dry-run", "--out", str(tmp_path), "--only", "peeks")
        assert done.returncode == 1 and "did you mean 'peaks'" in done.stderr


HEAD = "QUESTION, answer = 'a question', lambda rows: [str(len(rows))]\n"
POINTS = "def measure(bench):\n    bench.each(['a', 'b', 'c'], str, lambda point: one(bench, point))\n"
FAKES = {
    "good": HEAD + "ORDER, SECONDS = 1, 20\n" + POINTS + "def one(bench, point):\n    bench.row(value=point, raw=[1, float('nan')])\n",
    "crashes": "import os\n"
    + HEAD
    + "ORDER, SECONDS = 2, 20\n"
    + POINTS
    + "def one(bench, point):\n    os.abort() if point == 'b' else bench.row(value=point)\n",
    "hangs": "import time\n"
    + HEAD
    + "ORDER, SECONDS = 3, 20\n"
    + POINTS
    + "def one(bench, point):\n    time.sleep(60) if point == 'b' else bench.row(value=point)\n",
    "raises": "import os\n"
    + HEAD
    + "ORDER, SECONDS = 4, 20\n"
    + POINTS
    + "def one(bench, point):\n    bench.row(value=point)\n    if point == 'b' and not os.path.exists('mended'): 1 / 0\n",
    "cannot_be_imported": "import there_is_no_such_module\n",
    "breaks_early": HEAD + "ORDER, SECONDS = 5, 20\ndef measure(bench):\n    raise RuntimeError('no such device')\n",
    "slow": "import time\n"
    + HEAD
    + "ORDER, SECONDS = 6, 1000\n"
    + "def measure(bench):\n    bench.each(range(1000), str, lambda point: (time.sleep(0.7), bench.row(value=point)))\n",
    "too_late": HEAD + "ORDER, SECONDS = 7, 20\n" + POINTS + "def one(bench, point):\n    bench.row(value=point)\n",
}
PROGRAM = """
import sys
from pathlib import Path
from slipstream.bench.gpu import ask, child, report, runner
for module in (child, report, runner):
    module.CASES = "fake_cases"
ask.Ask.__init__.__defaults__ = (*ask.Ask.__init__.__defaults__[:-1], 2.0)  # seconds that a point may take
runner.LEAST, runner.GRACE, runner.RESERVE = 2.0, 1.0, 0.5
runner.PRELOAD = ("slipstream.bench.gpu.bench",)  # these cases need nothing else
seconds = float(sys.argv[2])
print(runner.run(runner.Options(Path(sys.argv[1]), seconds=seconds, dry=True, commit="abc", only=tuple(sys.argv[3:]))))
"""


@pytest.fixture(scope="module")
def fakes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fakes")
    (folder / "fake_cases").mkdir()
    (folder / "fake_cases" / "__init__.py").write_text("")
    for name, text in FAKES.items():
        (folder / "fake_cases" / f"{name}.py").write_text(text)
    return folder


@NEEDS_TRITON
def test_whatever_a_case_does_the_others_are_measured(fakes, tmp_path):
    done = python("-c", PROGRAM, str(tmp_path), "14", path=fakes)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = Journal(tmp_path / "results.jsonl").cases()
    values = {name: [row["value"] for row in record.rows] for name, record in cases.items()}
    assert cases["good"].status == DONE and values["good"] == ["a", "b", "c"]
    assert cases["good"].rows[0]["raw"] == [1, "nan"]
    for name, sign in (("crashes", "SIGABRT"), ("hangs", "status 1")):
        assert cases[name].status == PARTIAL and values[name] == ["a", "c"], cases[name]
        [(point, why)] = cases[name].failures
        assert point == "b" and sign in why
    assert cases["raises"].status == PARTIAL and values["raises"] == ["a", "b", "c"]
    assert cases["raises"].failures == [("b", "ZeroDivisionError: division by zero")]
    assert cases["cannot_be_imported"].status == FAILED and "there_is_no_such_module" in cases["cannot_be_imported"].failures[0][1]
    assert cases["breaks_early"].failures == [("the case", "RuntimeError: no such device")]
    assert cases["slow"].status == PARTIAL and 2 < len(values["slow"]) < 40 and "of 1000 points" in cases["slow"].left
    assert cases["too_late"].status == LEFT_OUT and not values["too_late"]
    assert "FAILED: b: the process ended with signal 6" in (tmp_path / "table.md").read_text()


@NEEDS_TRITON
def test_a_later_call_takes_up_what_was_not_done(fakes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("good", "raises", "crashes")
    assert python("-c", PROGRAM, str(tmp_path), "30", *names, path=fakes).returncode == 0
    Path("mended").touch()
    with (tmp_path / "results.jsonl").open("a") as file:
        file.write('{"case": "good", "ev')  # as a killed process leaves it
    assert python("-c", PROGRAM, str(tmp_path), "30", *names, path=fakes).returncode == 0
    cases = Journal(tmp_path / "results.jsonl").cases()
    assert cases["raises"].status == DONE and [row["value"] for row in cases["raises"].rows] == ["a", "c", "b"]
    assert not cases["raises"].failures
    assert cases["crashes"].status == PARTIAL and [row["value"] for row in cases["crashes"].rows] == ["a", "c"]
    assert len(cases["good"].rows) == 3


class FakeCuda:
    """A device on which every call takes as long as it says; graphs replay what was recorded."""

    class Event:
        def __init__(self, enable_timing):
            self.at = None

        def record(self):
            self.at = FakeCuda.now

        def synchronize(self):
            pass

        def elapsed_time(self, end):
            return (end.at - self.at) * 1e3

    class CUDAGraph:
        def replay(self):
            FakeCuda.now += self.seconds

    class Stream:
        def wait_stream(self, other):
            pass

    now = 0.0

    @staticmethod
    @contextlib.contextmanager
    def graph(graph):
        began = FakeCuda.now
        yield
        graph.seconds = (FakeCuda.now - began) / 2  # a replay is faster than launching

    stream = staticmethod(lambda stream: contextlib.nullcontext())
    current_stream = staticmethod(lambda: FakeCuda.Stream())
    synchronize = staticmethod(lambda: None)


def test_the_clock_divides_by_the_calls_and_takes_turns(monkeypatch):
    from slipstream.bench.gpu import clock

    monkeypatch.setattr(clock.torch, "cuda", FakeCuda)
    calls = []

    def takes(name, seconds):
        def call():
            calls.append(name)
            FakeCuda.now += seconds

        return call

    def fails():
        raise ValueError("no such kernel")

    long = [takes("a0", 1e-3), takes("a1", 1e-3), takes("a2", 1e-3)]
    found = clock.Clock("cuda").compare({"long": long, "broken": [fails], "short": [takes("b", 1e-6)]}, seconds=0.01)
    assert found["long"].median == pytest.approx(0.5e-3) and found["short"].median == pytest.approx(0.5e-6)
    assert found["long"].way == "graph" and isinstance(found["broken"], ValueError)
    assert clock.ROUNDS[0] <= len(found["long"].samples) <= clock.ROUNDS[1]
    assert calls[:3] == ["a0", "a1", "a2"]
    launched = clock.Clock("cuda").time(long, graph=False, seconds=0.01)
    assert launched.median == pytest.approx(1e-3) and launched.way == "launched"


def test_published_tables(tmp_path, monkeypatch):
    monkeypatch.delenv("SLIPSTREAM_SHARED", raising=False)
    monkeypatch.delenv("SLIPSTREAM_PUBLISHED", raising=False)
    gemm = "gemm_dtype,m,n,k,latency\nbfloat16,1,8,16,0.5\nbfloat16,1,8,16,0.25\nfp8,1,8,16,0.125\n"
    attention = "batch_size,isl,num_heads,num_key_value_heads,head_dim,attn_dtype,kv_cache_dtype,step,window_size,latency\n"
    attention += "2,1,32,8,128,bfloat16,bfloat16,1023,0,0.01\n2,1,32,8,128,bfloat16,fp8,1023,0,0.005\n"
    for name, text in (("h200_gemm", gemm), ("h200_generation_attention", attention), ("a100_gemm", gemm.replace("0.", "9."))):
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt") as file:
            file.write(text)
    for source in ([str(tmp_path)], [str(tmp_path / "h200_gemm.csv.gz"), str(tmp_path / "h200_generation_attention.csv.gz")]):
        published = Published(source)
        assert published.gemm("bfloat16", 1, 8, 16) == pytest.approx(0.25e-3) and published.gemm("fp8", 2, 8, 16) is None
        assert published.decode_attention(2, 1024, 32, 8, 128) == pytest.approx(1e-5)
        assert published.prefill_attention(1, 1024, 32, 8, 128) is None
    assert Published().gemm("bfloat16", 1, 8, 16) is None


def test_the_shared_tables_are_read(shared):
    published = Published([str(shared / "data/measured_latency/aiconfigurator")])
    assert 10e-6 < published.gemm("bfloat16", 1, 6144, 4096) < 100e-6
    assert 1e-6 < published.decode_attention(8, 1024, 32, 8, 128) < 100e-6
    assert published.prefill_attention(1, 2048, 32, 8, 128) > 10e-6


@NEEDS_TRITON
def test_what_is_compiled_ahead_is_chosen_without_asking_the_device(monkeypatch):
    """A process that has touched the device cannot be forked into others that do."""
    from slipstream.bench.gpu import ahead
    from slipstream.ops.triton.launch import Variant

    def touched(variant):
        raise AssertionError("options ask what device there is")

    pool = MagicMock()
    pool.return_value.__enter__.return_value.map = lambda function, numbers: ["" for _ in numbers]
    monkeypatch.setattr(Variant, "options", property(touched))
    monkeypatch.setattr(ahead, "ProcessPoolExecutor", pool)
    ahead.compile_ahead(MagicMock(), [Variant(print, {"n": n}, ("*fp32",)) for n in (1, 2, 1)])
    assert [variant.constants for variant in ahead.WANTED] == [{"n": 1}, {"n": 2}]
