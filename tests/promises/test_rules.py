"""Rules that weigh drafts, in the whole engine: what they weigh by is what is drawn from, and the texts are distributed as without."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from slipstream import LLM, SamplingParams
from slipstream.ops.dispatch import Kernels
from slipstream.sampling.noting import NotingSampler
from slipstream.sampling.sampler import SampleRow
from slipstream.step import DraftTree
from tests.promises import oracles

MODEL = "dummy:tiny:fp32"
RULES = ("reject", "block")
PROMPTS = [[5, 6, 7, 8], [9, 10, 11, 12, 13], [3]]
SAMPLING = {
    "plain": dict(temperature=0.8, seed=1),
    "cut": dict(temperature=1.2, top_k=20, top_p=0.8, min_p=0.01, seed=2),
    "penalties": dict(temperature=0.9, seed=3, repetition_penalty=1.3, frequency_penalty=0.5, logit_bias={7: 3.0}, min_tokens=6),
}


def said(llm: LLM, new: int = 16, **sampling) -> list[list[int]]:
    outputs = llm.generate(PROMPTS, SamplingParams(max_tokens=new, ignore_eos=True, **sampling))
    return [output.outputs[0].token_ids for output in outputs]


@pytest.mark.parametrize("rule", [*RULES, "typical"])
def test_greedy_text_is_the_same(rule):
    plain = said(LLM(MODEL), temperature=0)
    known = [[*prompt, *text] for prompt, text in zip(PROMPTS, plain, strict=True)]
    for drafter in (oracles.Perfect(known), oracles.AlwaysWrong(known), oracles.RandomTree(known, seed=2), oracles.OutOfVocabulary(known)):
        llm = LLM(MODEL, speculate=drafter, verify=rule, control=False, page_size=4)
        assert said(llm, temperature=0) == plain
        llm.engine.core.scheduler.check_integrity()
    assert llm.engine.config.profile.endswith(f"/verify-{rule}"), "texts may depend on drafts, so it is a profile of its own"


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("drafter", ["draft_model", "staged"])
def test_a_drafter_that_is_the_model_is_always_right(drafter, rule, sampling):
    llm = LLM(MODEL, speculate=f"{drafter}:path={MODEL},nodes=4", verify=rule, control=False, page_size=4)
    texts = said(llm, **SAMPLING[sampling])
    tally = llm.engine.core.meter.tally
    assert tally.drafted > 20 and tally.accepted == tally.drafted, "p is q, with all that is done to either"
    assert texts == said(llm, **SAMPLING[sampling]), "the same drafts, the same text"


@pytest.mark.parametrize(
    "drafter", ["eagle:path=dummy,nodes=5,depth=2,width=3", "medusa:path=dummy,nodes=8,width=3", "redrafter:path=dummy,nodes=6"]
)
def test_a_head_notes_all_its_choices(drafter):
    """Second and third ones too: a token that is drawn from nobody knows what is taken for certain, which is exact, but seldom kept."""
    llm = LLM(MODEL, speculate=drafter, verify="reject", control=False, page_size=4)
    judge, candidates = llm.engine.executor.runner._judge, []
    walk = judge._rule.module.walk

    def watched(options, weighed, dice):
        for node in (-1, *range(len(weighed.tree))):
            candidates.extend((token, q) for token, q in weighed.candidates(node))
        return walk(options, weighed, dice)

    judge._rule = dataclasses.replace(judge._rule, module=SimpleNamespace(walk=watched, EXACT=True))
    said(llm, **SAMPLING["cut"])
    assert len(candidates) > 20 and all(q is not None for _, q in candidates)


def test_log_probabilities_are_those_of_what_was_said():
    llm = LLM(MODEL, speculate=f"draft_model:path={MODEL},nodes=4", verify="reject", control=False)
    output = llm.generate(PROMPTS[0], SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.9, seed=5, logprobs=1))[0].outputs[0]
    whole = [*PROMPTS[0], *output.token_ids]
    scored = LLM(MODEL).generate(whole, SamplingParams(max_tokens=0, prompt_logprobs=1))[0].prompt_logprobs[len(PROMPTS[0]) - 1 :]
    assert [entry.token for entry in output.logprobs] == output.token_ids
    assert [entry.logprob for entry in output.logprobs] == [entry.logprob for entry in scored]


class Stubborn:
    """Draws from a table of its own, whatever the model: chains of two, or two candidates and one below the first."""

    max_draft = 3

    def __init__(self, tree: bool):
        self.sampler, self.tree = NotingSampler(Kernels("cpu"), 64), tree
        self.table = 1.5 * torch.randn(512, 512, generator=torch.Generator().manual_seed(4))

    def propose(self, contexts):
        return [self.guess(context) for context in contexts]

    def guess(self, context):
        end, last = len(context.tokens), context.tokens[-1]
        first = self.draw(context, last, ())
        paths = [(first, self.draw(context, first, (first,)))]
        if self.tree:
            line = self.table[last].clone()
            line[first] = -math.inf  # without replacement: the same noise then gives the second best
            [second], _ = self.sampler.draw(line[None], [SampleRow(context.voice, end)])
            paths.append((second,))
        tree = DraftTree.merge(paths)
        return DraftTree(tree.tokens, tree.parents, "stubborn")

    def draw(self, context, last, path):
        [token], _ = self.sampler.draw(self.table[last].clone()[None], [SampleRow(context.voice, len(context.tokens) + len(path), path)])
        return token

    def drop(self, request):
        return None


ALLOWED = (5, 6, 7)


def law(prompt: list[int]) -> dict[tuple[int, ...], float]:
    """Probability of every text of three of the allowed tokens, from scores of the model without drafts."""
    llm, out = LLM(MODEL, prefix_cache=False), {}
    texts = list(itertools.product(ALLOWED, repeat=3))
    scored = llm.generate([[*prompt, *text] for text in texts], SamplingParams(max_tokens=0, prompt_logprobs=0))
    chances = {}
    for text, output in zip(texts, scored, strict=True):
        for at in range(3):
            chances[text[: at + 1]] = math.exp(output.prompt_logprobs[len(prompt) - 1 + at].logprob)
    for text in texts:
        out[text] = math.prod(chances[text[: at + 1]] / sum(chances[(*text[:at], other)] for other in ALLOWED) for at in range(3))
    return out


@pytest.mark.parametrize("rule, tree", [("reject", False), ("reject", True), ("block", False)])
def test_texts_are_distributed_as_without_drafts(rule, tree):
    prompt, samples, rounds = [5, 6, 7, 8], 128, 4
    llm = LLM(MODEL, speculate=Stubborn(tree), verify=rule, control=False, max_batch=64)
    expected, count = law(prompt), dict.fromkeys(itertools.product(ALLOWED, repeat=3), 0)
    for seed in range(rounds):
        params = SamplingParams(max_tokens=4, ignore_eos=True, seed=seed, n=samples, allowed_token_ids=ALLOWED)
        for output in llm.generate(prompt, params)[0].outputs:
            count[tuple(output.token_ids[:3])] += 1
    total = samples * rounds
    tally = llm.engine.core.meter.tally
    assert 0.1 < tally.accepted / tally.drafted < 0.9
    chi = sum((count[text] - total * chance) ** 2 / (total * chance) for text, chance in expected.items())
    assert chi < 70, f"26 degrees of freedom: 70 comes once in 100,000 times; {chi}"
