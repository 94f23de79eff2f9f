"""The speculation bench on a tiny model: texts, turns and figures."""

import json

import pytest
from typer.testing import CliRunner

from slipstream.bench import speculation as case
from slipstream.cli.main import app

TEXT = "the quick brown fox jumps over the lazy dog; " * 40


def ask(folder, **changes) -> case.Ask:
    values = {"texts": [("fox", TEXT)], "drafters": ["ngram", case.WRONG], "batches": (1, 2), "new_tokens": 12, "repeat": 1}
    return case.Ask(str(folder), **(values | changes))


def test_repetition():
    assert case.repetition([1, 2, 3, 4], [5, 6]) == 0
    assert case.repetition([1, 2, 3, 4, 9], [1, 2, 3, 4]) == 0.25
    assert case.repetition([7] * 8, [7, 7, 8, 7]) == 0.5


def test_every_place_of_every_drafter(folder, known_machine):
    plain, scores, limit = case.run(ask(folder))
    assert [(score.drafter, score.place.batch) for score in scores[:4]] == [("ngram", 1), ("ngram", 2)] * 2
    assert len(scores) == 2 * 2 * 2 * 2 and limit.readings
    for score in scores:
        assert len(score.ratios) == len(score.share) == 1 and score.speedup > 0
        assert 12 * score.place.batch == score.tally.steps + score.tally.accepted, "all tokens of the turn that counts, and no others"
        assert 0 <= score.repetition <= 1
        if score.drafter == case.WRONG:
            assert score.tally.per_step < 1.2
    plain.close()


def test_a_drafter_that_changes_a_text_is_caught(folder, monkeypatch):
    from slipstream.speculate.verify import match
    from slipstream.step.draft import DraftTree
    from slipstream.worker import runner

    def credulous(tree: DraftTree, sampled):
        kept = list(range(len(tree)))
        return kept, [*tree.tokens, sampled[-1]]

    assert runner.match is match.match
    monkeypatch.setattr(runner, "match", credulous)
    with pytest.raises(Exception, match="wrong: another text than without it"):
        case.run(ask(folder, drafters=[case.WRONG]))


def test_a_text_that_is_too_short(folder):
    with pytest.raises(case.InputError, match="too few for 2 prompts"):
        case.run(ask(folder, texts=[("short", "the dog")]))


def test_the_command(folder, tmp_path):
    text = tmp_path / "fox.txt"
    text.write_text(TEXT)
    arguments = ["--model", str(folder), "--text", str(text), "--drafter", "ngram", "--batch", "1", "--new-tokens", "8", "--repeat", "1"]
    done = CliRunner().invoke(app, ["bench", "speculation", *arguments, "--out", str(tmp_path)], terminal_width=200)
    assert done.exit_code == 0, done.output
    [path] = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["case"] == "speculation" and len(record["points"]) == 4 and record["limit"]["probes"]
    assert {"speedup", "tokens_per_step", "accepted_by_depth", "repetition"} <= set(record["points"][0])
