"""`slipstream plan` and `slipstream models`: what is known about a model before it is loaded."""

import re
import sys

import pytest
from typer.testing import CliRunner

from slipstream.arch.shapes import SHAPES, shape
from slipstream.base.errors import InputError
from slipstream.cli.main import app
from slipstream.cost import Work, step_cost
from slipstream.hardware import device
from slipstream.weights.load import Loaded
from tests.weights import tiny
from tests.weights.test_hub import snapshot


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments), terminal_width=80)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    for name in ("HF_HUB_OFFLINE", "HF_HOME", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def rates(text: str) -> dict[str, int]:
    """Tokens per second by line."""
    found = re.findall(r"^ +(decode, batch \d+|prompt of [\d,]+) +[\d.,]+ +([\d,]+)", text, re.MULTILINE)
    return {name: int(rate.replace(",", "")) for name, rate in found}


def test_a_shape_on_a_named_device():
    done = call("plan", "dummy:llama-3.1-8b", "--device", "h200", "--max-len", "4096", "--max-batch", "8")
    assert done.exit_code == 0, done.output
    assert re.search(r"^weights +16,061,054,976 B", done.stdout, re.MULTILINE) and "8 of 8 requests at full length 4096" in done.stdout
    assert "NVIDIA H200 SXM, as stated: 4,800.0 GB/s" in done.stdout
    found, cost = rates(done.stdout), step_cost(shape("llama-3.1-8b"), "bf16", "bf16", Work.of([(1024, 1, ())], 1), device="cuda")
    assert found["decode, batch 1"] == pytest.approx(4800e9 / cost.bytes, abs=1)
    assert found["decode, batch 1"] < found["decode, batch 8"] < found["decode, batch 32"] < 32 * found["decode, batch 1"]
    assert found["prompt of 1,024"] > found["decode, batch 32"]
    assert re.findall(r"(batch \d+).*needs KV for ([\d,]+) tokens", done.stdout) == [("batch 32", "32,800")]  # the pool has 32,768


def test_int8_is_faster_and_smaller_here():
    plain, small = call("plan", "dummy:tiny"), call("plan", "dummy:tiny", "--quant", "int8", "--kv", "fp32", "--memory", "2G")
    assert "this machine's cpu" in plain.stdout and "probed now: 100.0 GB/s" in plain.stdout
    assert rates(small.stdout)["decode, batch 1"] != rates(plain.stdout)["decode, batch 1"]
    assert "tiny in int8" in small.stdout and "in fp32;" in small.stdout and "2.00 GiB  the option memory" in small.stdout


def test_a_folder_and_a_cached_id_without_reading_weights(cache, monkeypatch):
    folder = tiny.write(snapshot(cache), tiny.random_weights())

    def refuse(*_):
        raise AssertionError("weights were read")

    monkeypatch.setattr(Loaded, "get", refuse)
    by_path, by_id = call("plan", str(folder)), call("plan", "org/name")
    assert by_path.exit_code == by_id.exit_code == 0, by_path.output + by_id.output
    assert "org/name" in by_id.stdout and rates(by_path.stdout) == rates(by_id.stdout) and "prompt of 63" in by_id.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["org/other"], "plan downloads nothing"),
        (["dummy:tinny"], "did you mean 'tiny'"),
        (["dummy:tiny", "--device", "cuda:99"], "take cpu, or one by name"),
        (["dummy:tiny", "--device", "h20"], "did you mean 'h200'"),
        (["dummy:llama-3.1-70b", "--device", "h100"], "quant=int8 makes the weights"),
        (["dummy:tiny", "--max-len", "99999"], "max_len=99999"),
        (["dummy:tiny", "--quant", "int9"], "int9"),
    ],
)
def test_what_cannot_be_planned(cache, arguments, named):
    done = call("plan", *arguments)
    assert done.exit_code == 2 and named in done.stderr.splitlines()[-1]


def test_device_files(tmp_path):
    for name in device.names():
        one = device.known(name.upper())
        assert one.kind in ("cpu", "cuda") and one.memory > 0 and one.bandwidth > 0 and {"fp32", "bf16", "int8"} <= set(one.peaks)
        assert (device.FOLDER / f"{name}.toml").read_text().startswith("# ") and "Source:" in (device.FOLDER / f"{name}.toml").read_text()
    (tmp_path / "half.toml").write_text('name = "half"\n')
    with pytest.raises(InputError, match=r"half\.toml.*it needs name, kind"):
        device.known("half", tmp_path)


def test_models_lists_what_needs_no_download(cache):
    done = call("models")
    assert done.exit_code == 0 and "there is no cache at" in done.stdout
    assert all(f"dummy:{name}" in done.stdout for name in SHAPES) and "taken where no model is named" in done.stdout


def test_models_says_what_can_be_run(cache):
    tiny.write(snapshot(cache), tiny.random_weights())
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf"):
        (snapshot(cache, "org/several") / name).write_bytes(b"GGUF")
    (snapshot(cache, "org/partly") / "config.json").write_text("{}")
    lines = {line.split()[0]: line for line in call("models").stdout.splitlines() if "org/" in line}
    assert set(lines) == {"org/name", "org/several", "org/partly"}
    assert lines["org/name"].endswith("ready") and "MiB" in lines["org/name"]
    assert "not complete" in lines["org/partly"] and "org/several:Q8_0" in lines["org/several"]


def test_models_lists_short_names(cache):
    tiny.write(snapshot(cache, "HuggingFaceTB/SmolLM2-135M-Instruct"), tiny.random_weights())
    lines = {line.split()[0]: line.split()[1:] for line in call("models").stdout.splitlines() if line.startswith("  ")}
    assert lines["llama-3.2-1b"] == ["meta-llama/Llama-3.2-1B-Instruct"]
    assert lines["smollm2-135m"] == ["cached", "HuggingFaceTB/SmolLM2-135M-Instruct"]


def test_models_without_the_library(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    done = call("models")
    assert done.exit_code == 0 and "pip install huggingface_hub" in done.stdout and "dummy:tiny" in done.stdout
