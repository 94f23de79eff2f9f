"""`slipstream chat`: what a conversation remembers, what can be typed, and how an answer is stopped."""

import io
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from slipstream import LLM, SamplingParams
from slipstream.cli import chat
from slipstream.cli.main import app
from slipstream.scheduler import passes

TINY = "dummy:tiny:fp32"
REUSED = re.compile(r"(\d+) of (\d+) prompt tokens from the cache")
TEMPLATE = "{% for m in messages %}[{{ m.role }}] {{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"


def talk(model, *entries: str, options=()):
    done = CliRunner().invoke(app, ["chat", str(model), "--seed", "1", *options], input="".join(f"{entry}\n" for entry in entries))
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def tuned(folder, tmp_path_factory):
    """The tiny model with a chat template."""
    path = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(folder, path)
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return path


def test_a_chat_sends_its_history_through_the_template(tuned, tmp_path):
    saved = tmp_path / "talk.json"
    done = talk(tuned, "the fox", "and the dog", f"/save {saved}", options=("--system", "be quick", "--max-tokens", "6"))
    messages = json.loads(saved.read_text())
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "user", "assistant"]
    llm, params = LLM(tuned, max_batch=1), SamplingParams(max_tokens=6, temperature=0.7, top_p=0.95, seed=1)
    for turn in (2, 4):
        rendered = "".join(f"[{one['role']}] {one['content']}<end>" for one in messages[:turn]) + "[assistant]"
        asked = llm.engine.intake.tokenizer.encode(rendered, special=False)
        assert llm.generate(asked, params)[0].outputs[0].text == messages[turn]["content"]
        assert messages[turn]["content"] in done.stdout
    (none, first), (hits, second) = (map(int, found) for found in REUSED.findall(done.stderr))
    assert none == 0 and first <= hits < second


def test_stdout_is_the_answers_alone_and_a_text_is_continued():
    done = talk(TINY, "1 2 3", "4", "/reset", "1 2 3", options=("--max-tokens", "5"))
    llm, params = LLM(TINY, max_batch=1), SamplingParams(max_tokens=5, temperature=0.7, top_p=0.95, seed=1)
    first = llm.generate([1, 2, 3], params)[0].outputs[0].token_ids
    second = llm.generate([1, 2, 3, *first, 4], params)[0].outputs[0].token_ids
    assert [[int(word) for word in line.split()] for line in done.stdout.splitlines()] == [first, second, first]
    assert "No chat: this model has no tokenizer" in done.stderr and "% of this machine's limit" in done.stderr
    assert [int(hits) for hits, _ in REUSED.findall(done.stderr)] == [0, 7, 2]


def test_a_base_model_says_that_it_has_no_template(folder):
    assert "has no chat template (a base model)" in talk(folder, "/exit").stderr
    done = CliRunner().invoke(app, ["chat", str(folder), "--system", "be quick"])
    assert done.exit_code == 2 and "no roles" in done.stderr


def test_mistakes_end_the_turn_only(tmp_path):
    there = tmp_path / "there"
    there.touch()
    wrong = {
        "/set temperature -1": "temperature=-1: must be between 0 and 100",
        "/set temperature warm": "must be a number",
        "/set temprature 1": "did you mean 'temperature'",
        "/set top_k 2.5": "top_k=2.5: must be a whole number",
        "/sav x": "did you mean '/save'",
        "/save": "name a file",
        f"/save {there}": "File exists",
        "/system be quick": "no chat template",
        "words": "give token ids",
        "1 " * 3000: "the conversation has 3000 tokens, max_len=2048: type /reset",
    }
    done = talk(TINY, *wrong, "/help", "/set", "/set max_tokens 2", "/set seed none", "1 2", "/exit", "1 2")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(wrong)
    for line, named in zip(errors, wrong.values(), strict=True):
        assert named in line
    assert "/reset" in done.stderr and "seed 1" in done.stderr and "seed None" in done.stderr
    assert len(done.stdout.split()) == 2


@pytest.mark.parametrize(
    ("typed", "entries"),
    [
        ("one\ntwo\n", ["one", "two"]),
        ("one \\\ntwo\\\nthree\nfour", ["one \ntwo\nthree", "four"]),
        ('"""\none\n\ntwo\n"""\nthree\n', ["one\n\ntwo", "three"]),
        ('"""one\\\ntwo"""\n', ["one\\\ntwo"]),
        ('"""one"""\n', ["one"]),
        ('"""never closed', ["never closed"]),
        ("ends\\", ["ends"]),
        ("\nx\r\n", ["", "x"]),
    ],
)
def test_entries_of_several_lines(monkeypatch, typed, entries):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    lines = chat.Lines()
    assert list(iter(lines.entry, None)) == entries


def test_an_interrupt_stops_the_answer_between_two_steps(monkeypatch, capsys):
    llm = LLM(TINY, max_batch=1)
    session = chat.Session(llm, chat.Continued(llm), SamplingParams(max_tokens=500, seed=1))
    shown = chat.show

    def show(output, delta, *more):
        shown(output, delta, *more)
        if delta.token_ids and len(output.outputs[0].token_ids) == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(chat, "show", show)
    monkeypatch.setattr(passes, "COUNTS", (1,))  # a token at a time
    session.answer("1 2 3")
    session.answer("4")
    said = capsys.readouterr()
    assert signal.getsignal(signal.SIGINT) is before
    assert [len(line.split()) for line in said.out.splitlines()] == [4, 4] and said.err.count("stopped; 4 tokens") == 2
    assert [int(hits) for hits, _ in REUSED.findall(said.err)] == [0, 6]
    llm.engine.core.scheduler.check_integrity()


def test_on_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves():
    pty = pytest.importorskip("pty", reason="needs pseudo-terminals")
    main, side = pty.openpty()
    command = [sys.executable, "-m", "slipstream.cli.main", "chat", TINY, "--max-tokens", "1900"]
    slow = {**os.environ, "SLIPSTREAM_NATIVE": "0", "TERM": "dumb"}
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=subprocess.PIPE, env=slow)
    os.close(side)
    read_until(main, rb"> $")
    os.write(main, b"1 2 3\n")
    read_until(main, rb"\n(\d+ ){3}")
    process.send_signal(signal.SIGINT)
    read_until(main, rb"> $")
    process.send_signal(signal.SIGINT)  # now nothing runs
    while not select.select([main], [], [], 1.0)[0]:  # readline misses a signal that comes just before it waits
        process.send_signal(signal.SIGINT)
    read_until(main, rb"> $")
    os.write(main, b"\x04")
    errors = process.communicate(timeout=60)[1].decode()
    os.close(main)
    assert process.returncode == 0 and "[stopped; " in errors and "/exit leaves" in errors
    assert "Traceback" not in errors


def read_until(terminal: int, wanted: bytes) -> None:
    shown = b""
    while not re.search(wanted, shown):
        assert select.select([terminal], [], [], 60)[0], f"nothing more on the terminal after {shown!r}"
        shown += os.read(terminal, 4096)
