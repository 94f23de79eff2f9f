"""A small run of each case: what is in the file, that shares come from the probes, and what is refused."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from slipstream.base import native, registry
from slipstream.base.errors import InputError
from slipstream.bench import driver, results
from slipstream.bench.driver import Ask

TINY = "dummy:tiny:fp32"
FIELDS = {"schema", "case", "date", "command", "commit", "versions", "machine", "model", "profile", "threads", "memory", "probe", "points"}
POINT = {"batch", "prompt_tokens", "new_tokens", "median", "share", "binds", "limit", "repetitions"}


@pytest.mark.parametrize("case", registry.names(driver.CASES))
def test_every_case_has_what_the_driver_asks_for(case):
    module = registry.load(driver.CASES, case)
    assert module.HELP and module.BATCH and module.PROMPT_TOKENS and module.NEW_TOKENS and module.COLUMNS


@pytest.mark.parametrize("case", registry.names(driver.CASES))
def test_a_small_run(case, tmp_path, known_machine):
    ask = Ask(case, TINY, batch=(2,), prompt_tokens=(9,), new_tokens=5, repeat=2)
    llm, runs = driver.run(ask)
    path = results.write(results.record(ask, llm, runs, "slipstream bench"), tmp_path)
    found = json.loads(path.read_text())
    assert set(found) == FIELDS
    assert found["profile"] == llm.engine.config.profile and found["model"]["name"] == "tiny"
    [point] = found["points"]
    assert set(point) == POINT
    assert len(point["repetitions"]) == 2 and len(point["limit"]["probes"]) == 3
    assert point["limit"]["bandwidth_gb_s"] == 10 and point["limit"]["peaks_gop_s"] == {"fp32": 100}
    assert {name for _, name, _ in registry.load(driver.CASES, case).COLUMNS} <= set(point["median"])
    for repetition in point["repetitions"]:
        assert repetition["share"]
        for span, share in repetition["share"].items():
            assert share == pytest.approx(repetition["least_s"][span] / repetition["wall_s"][span])
            assert 0 < share < 1


def test_the_host_has_what_native_ops_leave(known_machine, monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr(native, "seconds", lambda: next(times) * 1e-5)  # 10 us of each piece of text
    _, [run] = driver.run(Ask("latency", TINY, batch=(1,), prompt_tokens=(4,), new_tokens=6, repeat=1))
    [measured] = run.repetitions
    pieces = (sum(measured.raw["between_tokens_s"]) - sum(measured.raw["host_s"])) / 1e-5
    assert len(measured.raw["between_tokens_s"]) == len(measured.raw["host_s"]) == 5, "one for each token after the first"
    assert pieces == pytest.approx(round(pieces), abs=1e-3) and 1 <= pieces <= 5, "tokens that come together share it"


def test_halving_the_probed_speed_doubles_the_share(known_machine):
    _, [run] = driver.run(Ask("throughput", TINY, batch=(1,), prompt_tokens=(4,), new_tokens=3, repeat=1))
    before = run.shares()["all"][0]
    reading = run.limit.readings[0]
    run.limit.readings = [type(reading)(reading.bandwidth / 2, {kind: peak / 2 for kind, peak in reading.peaks.items()})]
    assert run.shares()["all"][0] == pytest.approx(2 * before)


def test_probes_lie_between_the_measurements(known_machine, monkeypatch):
    case = registry.load(driver.CASES, "throughput")
    measure = case.measure
    monkeypatch.setattr(case, "measure", lambda *a, **k: (known_machine.append(("measure", k["seed"])), measure(*a, **k))[1])
    driver.run(Ask("throughput", TINY, batch=(1,), prompt_tokens=(4,), new_tokens=2, repeat=2))
    assert [call[0] for call in known_machine if call[0] != "peak"] == ["measure", "read", "measure", "read", "measure", "read"]


def test_prompts_differ_between_repetitions_and_requests():
    point = driver.Point(3, 8, 1)
    drawn = [tuple(prompt) for seed in (0, 1) for prompt in point.prompts(512, seed)]
    assert len(set(drawn)) == 6 and point.prompts(512, 1) == point.prompts(512, 1)


def test_results_never_overwrite(tmp_path):
    result = {"date": "2026-01-02T03:04:05+00:00", "case": "latency", "model": {"name": "a/b c"}}
    first, second = results.write(result, tmp_path), results.write(result, tmp_path)
    assert first != second and first.name == "2026-01-02T030405-latency-a-b-c.json" and first.exists() and second.exists()


def test_wrong_arguments_name_the_way_out(known_machine):
    with pytest.raises(InputError, match="did you mean 'latency'"):
        driver.run(Ask("latncy", TINY))
    with pytest.raises(InputError, match="batch=0"):
        driver.run(Ask("throughput", TINY, batch=(0,)))
    from slipstream.cli.main import app

    done = CliRunner().invoke(app, ["bench", "latency", "--batch", "1;2"])
    assert done.exit_code == 2 and "--batch" in done.stderr


def test_as_a_module(tmp_path):
    arguments = [
        "throughput",
        "--model",
        TINY,
        "--batch",
        "1",
        "--prompt-tokens",
        "4",
        "--new-tokens",
        "2",
        "--repeat",
        "1",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, "-m", "slipstream.bench", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "share of" in done.stdout and "GB/s" in done.stdout
    [path] = tmp_path.iterdir()
    assert json.loads(path.read_text())["command"].startswith("python -m slipstream.bench throughput")
    refused = subprocess.run([sys.executable, "-m", "slipstream.bench", "nothing"], capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2 and refused.stderr.startswith("error: ") and "Traceback" not in refused.stderr
