"""`slipstream verify`: passes where all is well, and fails where something is not."""

import pytest
from typer.testing import CliRunner

from slipstream.cli import verify
from slipstream.cli.main import app


def run(model, *options: str):
    done = CliRunner().invoke(app, ["verify", str(model), *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done, {line[:34].strip(): line[34:38] for line in done.stdout.splitlines()[1:-1]}


def test_a_sound_model_passes_everything(folder):
    pytest.importorskip("transformers")
    done, verdicts = run(folder)
    assert done.exit_code == 0, done.output
    skipped = [name for name, verdict in verdicts.items() if verdict == "skip"]
    learned = ("blockwise", "draft_model", "eagle", "medusa", "mtp", "redrafter")
    assert {f"same text, drafts by {name}" for name in learned} <= set(skipped), "none comes with it"
    for name in skipped:
        assert name.startswith("same text, drafts by"), name
        del verdicts[name]
    assert set(verdicts.values()) == {"PASS"} and {f"same text, drafts by {name}" for name in ("ngram", "suffix", "auto")} <= set(verdicts)
    assert "192 of 192" in done.stdout and f"passed, 0 failed, {len(skipped)} skipped" in done.stdout


def test_what_cannot_be_compared_is_skipped_and_said():
    done, verdicts = run("dummy:tiny:fp32", "--threads", "1")
    alone = ("ngram", "suffix", "auto", "first", "best", "lookahead", "early_exit", "cascade")
    assert done.exit_code == 0 and all(verdicts[f"same text, drafts by {name}"] == "PASS" for name in alone)
    assert list(verdicts.values()).count("PASS") == 3 + len(alone)
    assert verdicts["log-probabilities of transformers"] == "skip" and "random weights" in done.stdout


def test_other_weights_than_those_of_transformers_fail(folder, monkeypatch):
    torch, load = pytest.importorskip("torch"), verify.load_oracle
    pytest.importorskip("transformers")

    def disturbed(*arguments):
        model = load(*arguments)
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(1.5)
        return model

    monkeypatch.setattr(verify, "load_oracle", disturbed)
    done, verdicts = run(folder)
    assert done.exit_code == 1
    assert [name for name, verdict in verdicts.items() if verdict == "FAIL"] == [
        "log-probabilities of transformers", "greedy tokens of transformers"
    ]  # fmt: skip


@pytest.mark.parametrize("spoil", ["tokens", "logprobs"])
def test_a_batch_that_changes_a_text_fails(monkeypatch, spoil):
    said = verify.said

    def spoiled(llm, asked, params):
        out = said(llm, asked, params)
        if len(asked) > 1 and llm.engine.config.scheduler.prefix_cache:
            tokens, logprobs = out[2]
            out[2] = ((*tokens[:5], tokens[5] + 1, *tokens[6:]), logprobs) if spoil == "tokens" else (tokens, logprobs[1:])
        return out

    monkeypatch.setattr(verify, "said", spoiled)
    done, verdicts = run("dummy:tiny:fp32")
    assert done.exit_code == 1 and verdicts["same text in a batch of 8"] == verdicts["same text from the prefix cache"] == "FAIL"
    assert verdicts["same text, prompts in chunks of 5"] == "PASS"
    assert ("prompt 3: other text from new token 6 on" if spoil == "tokens" else "prompt 3: same text, other log") in done.stdout


def test_a_cache_that_is_never_hit_is_no_pass(monkeypatch):
    opened = verify.opened
    monkeypatch.setattr(verify, "opened", lambda *given, **more: opened(*given, **{**more, "prefix_cache": False}))
    done, verdicts = run("dummy:tiny:fp32")
    assert done.exit_code == 1 and verdicts["same text from the prefix cache"] == "FAIL" and "nothing was checked" in done.stdout
