"""A real third-party checkpoint through the whole engine: its documented greedy text, whatever else happens."""

import pytest

from slipstream import LLM, SamplingParams
from tests.promises.oracles import ORACLES
from tests.tools import llama2c

BOS, NEW = 1, 260


@pytest.fixture(scope="module")
def stories(shared, tmp_path_factory):
    source, out = shared / "data/checkpoints/stories260K", tmp_path_factory.mktemp("stories") / "stories260K"
    llama2c.convert(source / "stories260K_legacy_f32.bin", source / "tok512.bin", out)
    return out


@pytest.fixture(scope="module")
def expected(shared):
    return (shared / "data/checkpoints/stories260K/expected_greedy.txt").read_text().rstrip("\n")


def greedy(llm: LLM) -> list[int]:
    return llm.generate([[BOS]], SamplingParams(max_tokens=NEW, temperature=0))[0].outputs[0].token_ids


def test_the_documented_text(stories, expected):
    llm = LLM(stories)
    text = llm.generate([[BOS]], SamplingParams(max_tokens=NEW, temperature=0))[0].outputs[0].text
    assert text.startswith(expected)


@pytest.mark.parametrize("drafter", ["Perfect", "RandomTree", "DuplicateHeavy"])
def test_the_documented_text_with_drafts_and_neighbours(stories, expected, drafter):
    known = [BOS, *greedy(LLM(stories))]
    oracle = ORACLES[drafter]([known], vocab=512)
    llm = LLM(stories, speculate=oracle, control=False, page_size=8, max_chunk=5, kv_tokens=1024, max_batch=4)
    prompts = [[BOS], known[:30], [BOS], known[:90], known[:31]]
    outputs = llm.generate(prompts, SamplingParams(max_tokens=NEW, temperature=0))
    decode = llm.engine.intake.tokenizer.decode
    for prompt, output in zip(prompts, outputs, strict=True):
        assert decode([*prompt, *output.outputs[0].token_ids]).startswith(expected)
    assert llm.engine.core.scheduler.stats.hits > 0
