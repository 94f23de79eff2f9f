"""Acceptance on tiny models: recorded at every place, read back, and replayed just so."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from slipstream import LLM, SamplingParams
from slipstream.base.errors import BackendError, InputError
from slipstream.bench import acceptance, replay
from slipstream.bench import speculation as case
from slipstream.bench.acceptance import Recorded, Trace
from slipstream.cli.main import app
from tests.bench.test_speculation import TEXT

HEAD = '{"trace": 1, "drafter": "ngram", "model": "demo"}'
LINE = '{"temperature": 0.8, "drafted": [3, 3], "right": [0, 2]}'


def test_what_is_recorded_is_what_would_have_been_kept(folder):
    """A drafter whose guesses do not depend on what was checked before (ngram) is recorded; then its guesses are checked for good."""
    places = 40
    ask = case.Ask(str(folder), [("fox", TEXT)], ["ngram:nodes=4,shortest=1"], (3,), places, 1, temperatures=(0.0,))
    trace = acceptance.record(ask)
    assert [len(one.right) for one in trace.requests] == [places] * 3 and trace.deepest == 4
    assert 0 < sum(sum(one.right) for one in trace.requests) < sum(sum(one.drafted) for one in trace.requests)
    llm = LLM(str(folder), speculate="ngram:nodes=4,shortest=1", control=False)
    prompts = case.made_prompts(llm, ask)["book"]
    for number, (prompt, one) in enumerate(zip(prompts, trace.requests, strict=True)):
        before, begun = llm.engine.core.meter.tally.copy(), len(llm.engine.core.meter.steps)
        llm.generate([prompt], SamplingParams(max_tokens=places + 6, temperature=0.0, seed=number, ignore_eos=True, logprobs=0))
        place, kept = 0, []
        for step in llm.engine.core.meter.steps[begun:]:
            if place:
                kept.append((step.tokens - 1, one.right[place - 1]))
            place += step.tokens
            if place > places:
                break
        assert all(was == recorded for was, recorded in kept) and any(was for was, _ in kept)
        assert llm.engine.core.meter.tally.since(before).drafts > 0


def test_tokens_per_step():
    one = Recorded(0.0, (3, 3, 3, 3), (2, 0, 0, 1))
    assert acceptance.per_step([one], 0) == 1
    assert acceptance.per_step([one], 1) == (2 + 1 + 2) / 3
    assert acceptance.per_step([one], 3) == (3 + 2) / 2


REQUESTS = st.builds(
    lambda heat, pairs: Recorded(heat, tuple(max(pair) for pair in pairs), tuple(min(pair) for pair in pairs)),
    st.floats(0, 2),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9),
)


@settings(max_examples=25)
@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_a_trace_comes_back(tmp_path_factory, requests):
    path, trace = tmp_path_factory.getbasetemp() / "trace.jsonl", Trace("eagle:depth=8", "demo", tuple(requests))
    acceptance.write(trace, path)
    assert acceptance.read(path) == trace


@pytest.mark.parametrize(
    "lines, message",
    [
        ([], ":1: must be"),
        (['{"trace": 2, "drafter": "ngram", "model": "demo"}', LINE], ":1: must be"),
        ([HEAD], ":2: no request follows"),
        ([HEAD, LINE, "{"], ":3: is not JSON"),
        ([HEAD, "[" * 100_000], ":2: is not JSON"),
        ([HEAD, "[]"], r":2: is '\[\]', not an object"),
        ([HEAD, LINE.replace("0.8", "true")], ":2: temperature=True must be a number"),
        ([HEAD, LINE.replace("[0, 2]", "[0, -2]")], ":2: right must be a list of whole numbers"),
        ([HEAD, LINE.replace("[0, 2]", "[0]")], ":2: drafted has 2 places and right 1"),
        ([HEAD, LINE, LINE.replace("[0, 2]", "[0, 4]")], ":3: at place 1 right is 4, but drafted only 3"),
    ],
)
def test_a_bad_trace_is_refused_with_its_line(tmp_path, lines, message):
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"trace.jsonl{message}"):
        acceptance.read(path)
    with pytest.raises(InputError, match="missing.jsonl"):
        acceptance.read(tmp_path / "missing.jsonl")


def ask(**changes) -> replay.Ask:
    requests = tuple(Recorded(0.8, (4,) * 30, tuple((number + place) % 5 for place in range(30))) for number in range(3))
    values = {"model": "dummy:tiny", "trace": Trace("eagle:nodes=4,depth=4,width=1", "demo", requests), "drafter": replay.FREE}
    return replay.Ask(**(values | {"batches": (2,), "depths": (0, 3), "new_tokens": 12, "repeat": 1} | changes))


@pytest.mark.parametrize("drafter", [replay.FREE, "eagle:path=dummy:bf16:128,nodes=4,depth=4,width=1"])
def test_what_was_right_is_kept_and_nothing_else(drafter, known_machine):
    bench = replay.Bench(ask(drafter=drafter))
    core, recorded = bench._cores[3], ask().trace.requests[0]
    [(output, number)] = bench._begin(core, bench._prompts[:1])
    bench._replay.known = {number: replay.Known(bench._texts[0], recorded)}
    said, place = output.outputs[0].token_ids, 0
    while not said:
        core.step()
    for _ in range(6):
        place = len(said)
        assert core.step()
        assert len(said) - place == 1 + min(recorded.right[place - 1], 3)
    assert said == bench._texts[0][: len(said)]
    bench.llm.close()


def test_every_setting_of_every_batch(known_machine):
    llm, scores, limit = replay.run(ask())
    assert [(score.batch, score.name) for score in scores] == [(2, "0"), (2, "3"), (2, "auto")]
    plain, deep, _ = scores
    assert plain.per_step == 1 and plain.ratios == [1.0] and not plain.checks
    assert 2 < deep.per_step < 3 and len(deep.checks) == len(deep.least) > 0 and limit.readings
    llm.close()


def test_a_text_that_changes_is_caught(known_machine, monkeypatch):
    from slipstream.worker import runner

    monkeypatch.setattr(runner, "match", lambda tree, sampled: (list(range(len(tree))), [*tree.tokens, sampled[-1]]))
    with pytest.raises(BackendError, match="depth 3, batch 2: request .* says something else"):
        replay.run(ask(repeat=0))


@pytest.mark.parametrize(
    "drafter, cost",
    [
        ("ngram", "none"),
        ("eagle:nodes=8,depth=8", "eagle:path=dummy:int4,nodes=8,depth=8"),
        ("redrafter", "redrafter:path=dummy:int4"),
    ],
)
def test_what_guesses_cost(drafter, cost):
    assert replay.costing(Trace(drafter, "demo", ()), "int4") == cost


def test_a_model_beside_has_to_be_named():
    with pytest.raises(InputError, match="say with --drafter"):
        replay.costing(Trace("draft_model", "demo", ()), "int4")


def test_the_commands(folder, tmp_path):
    text, trace = tmp_path / "fox.txt", tmp_path / "trace.jsonl"
    text.write_text(TEXT)
    few = ["--batch", "2", "--new-tokens", "8"]
    command = ["bench", "speculation", "--model", str(folder), "--text", str(text), "--drafter", "ngram", *few]
    done = CliRunner().invoke(app, [*command, "--record", str(trace)])
    assert done.exit_code == 0, done.output
    assert {one.temperature for one in acceptance.read(trace).requests} == {0.0, 0.8}
    command = ["bench", "speculation", "--replay", str(trace), *few, "--repeat", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*command, "--shape", "tiny", "--guesses", "0,2"], terminal_width=200)
    assert done.exit_code == 0 and "auto" in done.output, done.output
    [path] = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["case"] == "replay" and record["cost"] == "none" and record["machine"] and record["limit"]["probes"]
    assert [point["setting"] for point in record["points"]] == ["0", "2", "auto"]
    assert CliRunner().invoke(app, command).exit_code == 2
