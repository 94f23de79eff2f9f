"""The command line as a whole: what answers at once, how mistakes end, what doctor says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slipstream
from slipstream.cli.main import app
from slipstream.hardware import gpu, machine
from slipstream.ops import probe
from slipstream.ops.triton import tuned

COMMANDS = ("run", "chat", "serve", "models", "plan", "doctor", "verify", "certify", "tune", "bench", "train")
SCREEN = 40  # lines


def call(*arguments: str, **more):
    return CliRunner().invoke(app, list(arguments), **more)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([command, "--help"] for command in COMMANDS), ["run", "--bogus"]])
def test_answers_without_loading_torch(arguments):
    program = (
        "import sys\nsys.argv = ['slipstream', *sys.argv[1:]]\nfrom slipstream.cli.main import main\n"
        "try: main()\nfinally: print('HEAVY', [name for name in ('torch', 'numpy', 'tokenizers') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stderr, done.stderr


@pytest.mark.parametrize("command", [*(name for name in COMMANDS if name != "train"), "train demo"])
def test_help_fits_a_screen(command):
    done = call(*command.split(), "--help", terminal_width=80)
    assert done.exit_code == 0 and done.stdout.count("\n") <= SCREEN


def test_version():
    done = call("--version")
    assert (done.exit_code, done.stdout) == (0, f"slipstream {slipstream.__version__}\n")


def test_nothing_prints_help():
    done = call()
    assert all(command in done.output for command in COMMANDS)


def test_unknown_option_and_command_name_the_nearest():
    done = call("run", "--max-token", "3")
    assert done.exit_code == 2 and "--max-tokens" in done.stderr
    done = call("dcotor")
    assert done.exit_code == 2 and "doctor" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "x", "--temperature", "-1"], "temperature=-1"),
        (["run", "x", "--model", "/nowhere/at/all"], "/nowhere/at/all"),
        (["run", "x", "--model", "dummy:tinny"], "did you mean 'tiny'"),
        (["run", "x", "--model", "dummy:tiny:fp32"], "give token ids"),
        (["run", "1 2", "--model", "dummy:tiny:fp32", "--memory", "lots"], "--memory"),
        (["run", "1 2", "--model", "dummy:tiny:fp32", "--memory", "100K"], "does not fit"),
        (["run", "1 2", "--model", "dummy:tiny:fp32", "--max-len", "999999"], "max_len=999999"),
        (["run", "1 2", "--model", "dummy:tiny:fp32", "--quant", "int9"], "int9"),
        (["run", "--model", "dummy:tiny:fp32"], "it is empty"),
        (["bench", "speed"], "bench case='speed': unknown"),
        (["train", "demo", "--data", __file__, "--out", "unused", "--distil", "0.5"], "--teacher"),
    ],
)
def test_our_errors_are_one_line_and_exit_2(arguments, named):
    done = call(*arguments, input="")
    assert done.exit_code == 2, done.output
    *before, last = done.stderr.splitlines()
    assert last.startswith("error: ") and named in last
    assert not [line for line in before if "error" in line or "Traceback" in line] and done.stdout == ""


@pytest.fixture
def known_machine(monkeypatch):
    monkeypatch.setattr(probe, "read_bandwidth", lambda size, threads, seconds=0.2, device="cpu": 10.0 * threads)
    monkeypatch.setattr(probe, "peak", lambda kind, threads, seconds=0.1, device="cpu": 1000.0)


def test_doctor_json(known_machine):
    done = call("doctor", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert {"machine", "versions", "native", "numerics", "kernels", "gpu_tables", "probe", "bandwidth", "peaks", "int8"} == set(facts)
    assert Path(facts["gpu_tables"]).is_file()
    assert facts["versions"]["slipstream"] == slipstream.__version__
    assert {choice["op"] for choice in facts["kernels"]} >= {"attention", "linear_int8", "sample"}
    assert all(row["gb_s"] == 10 * row["threads"] for row in facts["bandwidth"])
    for one in facts["int8"]:
        threads = max(row["threads"] for row in facts["bandwidth"])
        assert one["bf16"]["tokens_per_s"] == pytest.approx(threads * 10e9 / one["bf16"]["bytes"])
        assert 1 < one["gain"] <= 2


def test_doctor_table(known_machine):
    done = call("doctor")
    assert done.exit_code == 0, done.output
    for word in ("cores", "memory", "torch", "numerics", "attention", "GB/s", "fp32 multiply-add", "--quant int8"):
        assert word in done.stdout


def test_doctor_names_the_tables_of_a_gpu(known_machine, monkeypatch):
    for module, name in ((gpu, "read"), (machine, "read_gpus")):
        monkeypatch.setattr(module, name, lambda: (gpu.Gpu("NVIDIA H200"),))
    monkeypatch.setattr(tuned, "source", lambda: Path("/a/folder" * 20) / "h200.json")  # longer than a line
    shown = "".join(call("doctor").stdout.split())
    assert "/a/folder" * 20 + "/h200.json(`slipstreamtune`measuresthisGPU" in shown


def test_doctor_without_the_native_module_says_why():
    program = (
        "from slipstream.ops import probe\nprobe.read_bandwidth = probe.peak = lambda *a: 1.0\nfrom slipstream.cli.main import main\nmain()"
    )
    without = {**os.environ, "SLIPSTREAM_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", program, "doctor"], capture_output=True, text=True, timeout=60, env=without)
    assert done.returncode == 0, done.stderr
    assert "not loaded: disabled by SLIPSTREAM_NATIVE=0" in done.stdout and "reference" in done.stdout
