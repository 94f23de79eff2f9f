"""What `auto` guesses with: look-ups, and what comes in a checkpoint's folder."""

import json

import pytest

from slipstream import LLM, SamplingParams
from slipstream.engine.build import BUILTIN
from slipstream.speculate.drafters.auto import Auto
from slipstream.speculate.drafters.draft_model import same_tokens
from slipstream.speculate.learned import brought
from slipstream.text.tokenizer import Tokenizer

PROMPT = "The captain said that the captain said that"


def test_what_the_built_in_model_brings_lies_beside_it():
    assert brought("draft", BUILTIN / "demo") == BUILTIN / "draft" and brought("eagle", BUILTIN / "demo") == BUILTIN / "eagle"
    assert brought("draft", BUILTIN / "draft") is None and brought("draft", "dummy:tiny") is None


@pytest.mark.parametrize(
    "kinds, expected",
    [((), "NoneType"), (("eagle",), "Eagle"), (("medusa", "mtp"), "Eagle"), (("eagle", "draft"), "DraftModel")],
)
def test_what_lies_in_the_folder_of_a_checkpoint_is_used(tmp_path, kinds, expected):
    """In one order whatever there is; a small model before a head. The text is the same."""
    model = tmp_path / "mine"
    model.mkdir()
    for file in (BUILTIN / "demo").iterdir():
        (model / file.name).symlink_to(file)
    for kind in kinds:
        (model / kind).symlink_to(BUILTIN / kind)
    params = SamplingParams(max_tokens=24, temperature=0)
    said = []
    for speculate in ("none", "auto"):
        llm = LLM(model, max_len=256, max_batch=2, speculate=speculate, control=False)
        said.append(llm.generate([PROMPT], params)[0].outputs[0].token_ids)
    drafter = llm.engine.executor.runner.drafter.other
    assert isinstance(drafter, Auto) and type(drafter._model).__name__ == expected
    assert said[0] == said[1] and llm.engine.core.meter.tally.accepted > 0


def test_equal_vocabularies_are_not_opened_to_be_compared(monkeypatch):
    monkeypatch.setattr(Tokenizer, "load", lambda folder: pytest.fail(f"{folder} was opened"))
    assert same_tokens(BUILTIN / "demo", BUILTIN / "draft")


def test_other_vocabularies_are_told_apart(tmp_path):
    text = (BUILTIN / "demo" / "tokenizer.json").read_text(encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text)), encoding="utf-8")  # other bytes, the same tokens
    assert same_tokens(BUILTIN / "demo", tmp_path)
    other = json.loads(text)
    other["model"]["merges"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(other), encoding="utf-8")
    assert not same_tokens(BUILTIN / "demo", tmp_path)
