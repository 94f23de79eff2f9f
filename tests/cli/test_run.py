"""`slipstream run`: the text alone on stdout, the rest on stderr, and how it ends."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import slipstream
from slipstream.cli.main import app
from slipstream.cli.run import Display
from slipstream.engine.outputs import Delta
from slipstream.ops import probe

TINY = ("--model", "dummy:tiny:fp32")
BUILTIN = Path(slipstream.__file__).parent / "builtin" / "demo"
SPEED = re.compile(r"(\d+) tokens.*, \d+ tokens/s, first token after \d+ ms, \d+% of this machine's limit \((memory|compute): ")
needs_builtin = pytest.mark.skipif(
    not (BUILTIN / "model.safetensors").exists(), reason="the built-in model is not part of this checkout yet"
)


def run(*arguments: str, **more):
    done = CliRunner().invoke(app, ["run", *arguments], **more)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_stdout_is_the_text_alone():
    done = run("1 2 3", *TINY, "--max-tokens", "7", "--seed", "1")
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(r"(\d+ ){7}\n", done.stdout)
    assert SPEED.search(done.stderr)[1] == "7" and "cut at the length asked for" in done.stderr
    assert re.search(r"start +\d+\.\d\d s of imports, \d+\.\d\d s to open", done.stderr)
    for word in ("tiny", "weights", "KV", "/w-fp32/kv-fp32", "seed 1"):
        assert word in done.stderr


def test_the_prompt_may_come_through_stdin():
    by_argument = run("1 2 3", *TINY, "--max-tokens", "5", "--seed", "4").stdout
    assert run(*TINY, "--max-tokens", "5", "--seed", "4", input="1 2 3\n").stdout == by_argument
    assert run("-", *TINY, "--max-tokens", "5", "--seed", "4", input="1 2 3").stdout == by_argument


def test_a_seed_repeats_and_a_drawn_one_is_shown():
    first = run("1 2 3", *TINY, "--max-tokens", "12")
    seed = re.search(r"seed (\d+)", first.stderr)[1]
    assert run("1 2 3", *TINY, "--max-tokens", "12", "--seed", seed).stdout == first.stdout


def test_samples_come_one_after_the_other():
    done = run("1 2 3", *TINY, "--n", "3", "--max-tokens", "9", "--seed", "2")
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and len(set(lines)) == 3 and all(len(line.split()) == 9 for line in lines)
    assert re.findall(r"sample (\d) of 3", done.stderr) == ["1", "2", "3"]
    assert lines[0].split() == run("1 2 3", *TINY, "--max-tokens", "9", "--seed", "2").stdout.split()


def test_samples_that_finish_early_wait_for_their_turn(capsys):
    show = Display("p", 3)
    for delta in (
        Delta(2, "c", finish_reason="stop"),
        Delta(0, "a"),
        Delta(1, "b"),
        Delta(0, "A", finish_reason="stop"),
        Delta(1, "B", finish_reason="stop"),
    ):
        show.add(delta)
    show.end()
    assert capsys.readouterr().out == "aA\nbB\nc\n"


def test_the_speed_line_says_when_the_probes_were_disturbed(monkeypatch):
    monkeypatch.setattr(probe, "read_bandwidth", lambda *_: 1e-6)
    assert "above 100%: something slowed the probes" in run("1 2 3", *TINY, "--max-tokens", "3").stderr


def test_options_reach_the_engine():
    done = run("1 2", *TINY, "--max-tokens", "2", "--quant", "int8", "--kv", "bf16", "--threads", "1", "--kernels", "reference")
    assert done.exit_code == 0, done.stderr
    assert re.search(r"reference\.\d+/w-int8/kv-bf16, 1 thread", done.stderr)


def test_ctrl_c_ends_cleanly():
    command = [sys.executable, "-m", "slipstream.cli.main", "run", "1 2 3", *TINY, "--max-tokens", "1900", "--kernels", "reference"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and b"Traceback" not in errors


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m slipstream.cli.main run '1 2 3' {' '.join(TINY)} --max-tokens 300 | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert len(done.stdout) == 5 and "Traceback" not in done.stderr


@needs_builtin
def test_the_built_in_model_says_what_it_is_and_writes_words():
    done = run("It was the best of times", "--max-tokens", "30", "--seed", "1")
    assert done.exit_code == 0, done.stderr
    assert "built-in demo model" in done.stderr and SPEED.search(done.stderr)
    assert len(re.findall(r"[a-z]{2,}", done.stdout)) >= 8


@needs_builtin
def test_stop_texts_end_the_output():
    done = run("It was the best of times", "--max-tokens", "60", "--seed", "1", "--stop", "a", "--stop", "e")
    assert done.exit_code == 0 and not set("ae") & set(done.stdout)
    assert "cut at the length" not in done.stderr


def test_on_a_terminal_the_prompt_is_shown_first():
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    main, side = pty.openpty()
    command = [sys.executable, "-m", "slipstream.cli.main", "run", "1 2 3", *TINY, "--max-tokens", "3"]
    done = subprocess.run(command, stdout=side, stderr=subprocess.PIPE, timeout=60)
    os.close(side)
    shown = os.read(main, 4096)
    os.close(main)
    assert done.returncode == 0, done.stderr
    assert shown.startswith(b"\x1b[2m1 2 3\x1b[0m") and len(shown.split()) >= 6


def test_a_lossy_rule_is_named_in_the_last_line():
    greedy = ("1 2 3", *TINY, "--max-tokens", "9", "--temperature", "0", "--seed", "1")
    lossy, plain = run(*greedy, "--speculate", "ngram:shortest=1", "--verify", "typical"), run(*greedy)
    assert lossy.stdout == plain.stdout, "at temperature 0 it is not"
    assert "verify=typical is LOSSY" in lossy.stderr.splitlines()[-1] and "/verify-typical" in lossy.stderr
    assert "LOSSY" not in plain.stderr and "/verify" not in plain.stderr
    wrong = CliRunner().invoke(app, ["run", "1 2 3", *TINY, "--verify", "rejekt"])
    assert wrong.exit_code != 0 and "did you mean 'reject'" in wrong.stderr
