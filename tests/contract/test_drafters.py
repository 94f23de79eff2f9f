"""The contract of every drafter: one file, found by its name, and tested the day it lands.

Whatever it guesses, the text stays the same; its trees are sound; a request that was dropped may come back. A drafter that runs a
model beside gets a tiny one.
"""

import dataclasses
import functools
import sys
import textwrap
from pathlib import Path

import pytest

from slipstream import LLM, SamplingParams
from slipstream.arch.heads import KINDS
from slipstream.base import registry
from slipstream.sampling.sampler import Voice
from slipstream.speculate import drafters
from slipstream.speculate.choose import DRAFTERS, choose
from slipstream.speculate.drafter import DraftContext
from slipstream.step import Admission

MODEL = "dummy:tiny:bf16"
OPTIONS = dict.fromkeys(("draft_model", "staged"), f"path={MODEL}") | dict.fromkeys(KINDS, "path=dummy")  # what a drafter cannot do without
PROMPTS = [[5, 6, 7, 8] * 4, [9, 10, 11], [5, 6, 7, 8, 12] * 3]
SAMPLING = {"greedy": dict(temperature=0), "penalties": dict(temperature=0.9, seed=2, top_p=0.9, frequency_penalty=0.4)}
DOCUMENTED = "pairs"  # the example of docs/add_a_drafter.md, put among the others as it stands there
NAMES = [*registry.names(DRAFTERS), DOCUMENTED]


@pytest.fixture(scope="module", autouse=True)
def example(tmp_path_factory):
    """The documented drafter in the folder of drafters, as far as Python is concerned."""
    folder = tmp_path_factory.mktemp("drafters")
    page = (Path(__file__).parents[2] / "docs" / "add_a_drafter.md").read_text(encoding="utf-8")
    code = page.split("## A whole one")[1].split("## Prove it")[0].split("\n\n", 2)[2]
    lines = textwrap.dedent(code).strip().splitlines()
    assert len(lines) <= 100
    (folder / f"{DOCUMENTED}.py").write_text("\n".join(lines) + "\n", encoding="utf-8")
    drafters.__path__.append(str(folder))
    yield
    drafters.__path__.remove(str(folder))
    sys.modules.pop(f"{DRAFTERS}.{DOCUMENTED}", None)


def option(name: str) -> str:
    return f"{name}:{OPTIONS[name]}" if name in OPTIONS else name


def said(llm: LLM, sampling: str) -> list[list[int]]:
    outputs = llm.generate(PROMPTS, SamplingParams(max_tokens=24, ignore_eos=True, **SAMPLING[sampling]))
    return [output.outputs[0].token_ids for output in outputs]


@functools.cache
def plain(sampling: str) -> list[list[int]]:
    return said(LLM(MODEL, speculate="none"), sampling)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("name", NAMES)
def test_the_text_is_the_same(name, sampling):
    llm = LLM(MODEL, speculate=option(name), page_size=4)
    assert said(llm, sampling) == plain(sampling)
    assert said(llm, sampling) == plain(sampling), "with what it remembers"
    llm.engine.core.scheduler.check_integrity()


@pytest.mark.parametrize("name", NAMES)
def test_trees_are_sound_whatever_is_asked(name):
    llm = LLM(MODEL, speculate=option(name))
    drafter = llm.engine.executor.runner.drafter
    params = SamplingParams(temperature=0)
    voices = [Voice.of(Admission(number, (1,), 1, params, 0), llm.engine.config.spec.vocab) for number in range(3)]
    texts = [[5, 6, 7, 8, 5, 6], [1], [3] * 40]
    for budgets in ((1, 1, 1), (3, 64, 2)):
        contexts = [DraftContext(number, texts[number], budget, voices[number]) for number, budget in enumerate(budgets)]
        trees = drafter.propose(contexts)
        assert len(trees) == len(contexts)
        for tree in trees:
            tree.check()
            assert len(tree) <= max(drafter.max_draft, 0)
        for text in texts:
            text += [5, 6]
    for number in (0, 1, 2, 2, 77):  # twice, and one that it never saw
        drafter.drop(number)
    texts = [[9, 9, 9], [5], [7, 7]]
    assert len(drafter.propose([DraftContext(number, texts[number], 2, voices[number]) for number in range(3)])) == 3


@pytest.mark.parametrize("name", NAMES)
def test_options_are_plain_and_documented(name):
    choice = choose(option(name))
    own = dataclasses.fields(choice.options)
    assert type(choice.options).__dataclass_params__.frozen
    for field in own:
        assert field.type in (bool, int, float, str), f"{name}: {field.name} cannot be given on a command line"
        assert field.default is not dataclasses.MISSING
        assert field.name in (type(choice.options).__doc__ or ""), f"{name}: say what {field.name} is"
    assert choice.max_draft == LLM(MODEL, speculate=option(name)).engine.executor.runner.drafter.max_draft
    assert choice.module.__doc__
