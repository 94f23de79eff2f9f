"""P1, same text: tokens and log-probabilities of a request are bitwise the same whatever else happens."""

import functools
import random
from dataclasses import replace

import pytest

from slipstream import LLM, SamplingParams
from slipstream.scheduler import passes
from tests.promises import oracles
from tests.promises.scenarios import AXES, MODELS, MORE, SAMPLING, Scenario, every, pairwise, params, prompts
from tests.tools.steps import watch_steps

VOCAB, NEW = 512, 14
LONGEST = 90 + NEW


def said(llm: LLM, asked, scenario_params) -> list:
    """Per prompt and sample: token ids and log-probabilities, every bit of them."""
    return [[(tuple(s.token_ids), tuple(s.logprobs)) for s in out.outputs] for out in llm.generate(asked, scenario_params)]


@functools.cache
def idle(weights: str, **where) -> LLM:
    """An idle machine: one request at a time, one page table, no cache, no draft."""
    return LLM(**{**MODELS[weights], **where}, max_batch=1, max_step_tokens=128, prefix_cache=False, threads=1, overlap=False)


@functools.cache
def alone(sampling: str, weights: str, place: int, **where) -> list:
    """What a prompt says when it is alone; of the first eight, also what its further samples say, derived alone too."""
    asked = prompts(32, VOCAB)[place]
    return said(idle(weights, **where), [asked], params(sampling, NEW, 3 if place < 8 else 1))[0]


def truth(sampling: str, weights: str, count: int, **where) -> list[list]:
    """What each of the first `count` prompts says when it is alone."""
    return [alone(sampling, weights, place, **where) for place in range(count)]


def continued(asked: list[list[int]], expected: list[list]) -> list[list[int]]:
    """Every prompt with each of its answers, for drafters that know them."""
    return [[*prompt, *tokens] for prompt, samples in zip(asked, expected, strict=True) for tokens, _ in samples]


def check(scenario: Scenario, **where) -> LLM:
    """Runs a scenario on the default kernels and device, or as the options `where` say."""
    asked = prompts(8 if scenario.samples > 1 else 32, VOCAB)[: max(scenario.batch, 4)]
    expected = truth(scenario.sampling, scenario.weights, len(asked), **where)
    oracle = oracles.ORACLES.get(scenario.drafter)
    drafter = scenario.drafter if oracle is None else oracle(continued(asked, expected), VOCAB)
    scarce = scenario.room == "scarce"
    llm = LLM(
        **{**MODELS[scenario.weights], **where},
        max_batch=scenario.batch,
        max_step_tokens=max(scenario.chunk, scenario.batch, 16),
        max_chunk=scenario.chunk,
        page_size=scenario.page_size,
        prefix_cache=scenario.prefix != "off",
        # room for the longest request and little more: others must give way to it
        kv_tokens=LONGEST + 2 * scenario.page_size + 8 if scarce else None,
        max_len=LONGEST if scarce else None,
        threads=scenario.threads,
        speculate=drafter,
        control=scenario.control,
        overlap=scenario.overlap,
    )
    own = params(scenario.sampling, NEW, scenario.samples)
    if scenario.prefix == "hit":
        llm.generate(asked, own)
    got = said(llm, asked, own)
    for prompt, samples, derived in zip(asked, got, expected, strict=True):
        want = derived[: scenario.samples]
        assert [tokens for tokens, _ in samples] == [tokens for tokens, _ in want], f"other text after {len(prompt)} tokens of prompt"
        assert samples == want, f"same text, other log-probabilities after {len(prompt)} tokens of prompt"
    scheduler = llm.engine.core.scheduler
    scheduler.check_integrity()
    if scenario.prefix == "hit" and not scarce:
        assert scheduler.stats.hits > 0
    return llm


@pytest.mark.parametrize("scenario", pairwise(), ids=str)
def test_same_text(scenario):
    check(scenario)


@pytest.mark.parametrize("scenario", pairwise(15, drafter=MORE)[::4], ids=str)  # a seed with which each of them is among these
def test_same_text_by_further_drafters(scenario):
    check(scenario)


@pytest.mark.parametrize("scenario", pairwise(1)[::6], ids=str)
def test_same_text_with_reference_kernels(scenario):
    check(scenario, kernels="reference")


def test_the_scarce_pool_preempts():
    llm = check(Scenario(8, 64, 16, "off", "scarce", 1, "none", False, True, 2, "fp32", "seeded"))
    assert llm.engine.core.scheduler.stats.preemptions > 0


@pytest.mark.gpu
@pytest.mark.parametrize("scenario", [scenario for scenario in pairwise() if scenario.weights not in ("fp32", "int8-row")], ids=str)
def test_same_text_on_a_gpu(scenario):
    """Whole-number activations and caches are the CPU's; where the CPU has a cache in int8, it is one in fp8 here."""
    check(scenario, device="cuda", deterministic=True, kv="fp8" if MODELS[scenario.weights].get("kv") == "int8" else None)


@pytest.mark.gpu
@pytest.mark.parametrize("heat", [0.0, 0.8])
def test_same_text_in_rounds_on_a_gpu(heat):
    """The built-in model and its head: several checks in a step, between which the host waits for nothing (worker/rounds.py)."""
    asked = ["The old man looked at the sea", "She said", "In the beginning of the year there was a great deal of"]
    wanted, texts, rounds = SamplingParams(max_tokens=45, temperature=heat, seed=7, ignore_eos=True), [], []
    for kind in ("none", "eagle:nodes=3,depth=3"):
        llm = LLM(None, device="cuda", deterministic=True, speculate=kind, max_batch=4, max_len=160, page_size=5, control=False)
        note = lambda plan, result: rounds.extend(outcome.rounds for outcome in result.outcomes if outcome.rounds)  # noqa: E731
        watch_steps(llm.engine.core.executor.runner, note)
        texts.append([output.outputs[0].token_ids for output in llm.generate(asked, wanted)])
        llm.close()
    assert texts[0] == texts[1] and rounds and max(map(max, rounds)) > 1, "some guesses are right"


MIXTURES = [replace(scenario, weights="mixture") for scenario in pairwise() if scenario.drafter in ("none", "Perfect", "RandomTree")]


@pytest.mark.parametrize("scenario", MIXTURES[::5], ids=str)
def test_same_text_of_experts(scenario):
    check(scenario)


@pytest.mark.gpu
@pytest.mark.parametrize("scenario", MIXTURES, ids=str)
def test_same_text_of_experts_on_a_gpu(scenario):
    """And their steps are captured: nothing in them waits for the host."""
    llm = check(scenario, device="cuda", deterministic=True)
    assert llm.engine.core.executor.runner.decoder.records


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("weights", AXES["weights"])
@pytest.mark.parametrize("drafter", (*AXES["drafter"], *MORE))
@pytest.mark.parametrize("sampling", SAMPLING)
def test_same_text_in_full(sampling, drafter, weights):
    """Every combination of everything: about two minutes for each of these, many hours for all."""
    for scenario in every(sampling=sampling, drafter=drafter, weights=weights):
        check(scenario)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sampling", SAMPLING)
def test_preempted_at_random_points(sampling, seed):
    expected, asked, rng = truth(sampling, "fp32", 8), prompts(8, VOCAB), random.Random(seed)
    drafter = oracles.RandomTree(continued(asked, expected), VOCAB, seed) if seed % 2 else "none"
    llm = LLM("dummy:tiny:fp32", max_batch=4, max_chunk=20, page_size=8, prefix_cache=seed > 1, speculate=drafter, control=False)
    core, intake = llm.engine.core, llm.engine.intake
    made = [intake.request(prompt, params(sampling, NEW, 1)) for prompt in asked]
    core.submit([ticket for _, tickets in made for ticket in tickets])
    while core.step():
        if rng.random() < 0.7:
            core.scheduler.preempt(rng.choice(made)[1][0].request.number)
        core.scheduler.check_integrity()
    assert core.scheduler.stats.preemptions > 1
    for (output, _), derived in zip(made, expected, strict=True):
        sample = output.outputs[0]
        assert (tuple(sample.token_ids), tuple(sample.logprobs)) == derived[0]


def test_samples_differ():
    """n > 1 must not mean n times the same: the noise depends on the sample's index."""
    samples = alone("seeded", "fp32", 3)
    assert len({tokens for tokens, _ in samples}) == 3


def test_what_rows_behind_the_end_leave_in_the_tree_is_right(monkeypatch):
    """Texts that end between passes, on a full page or within one, read again with what they said."""
    monkeypatch.setattr(passes, "SPARED", 1)
    asked = [prompt[:20] for prompt in prompts(8, VOCAB)]
    llm = LLM("dummy:tiny:bf16", max_batch=8, max_len=64, page_size=4)
    said = llm.generate(asked, [SamplingParams(max_tokens=9 + place, ignore_eos=True, temperature=0) for place in range(8)])
    longer = [[*prompt, *out.outputs[0].token_ids] for prompt, out in zip(asked, said, strict=True)]
    params = SamplingParams(max_tokens=4, ignore_eos=True, temperature=0, logprobs=1)
    hits = llm.engine.core.scheduler.stats.hits
    again = [(out.outputs[0].token_ids, out.outputs[0].logprobs) for out in llm.generate(longer, params)]
    assert llm.engine.core.scheduler.stats.hits > hits + 8 * 20
    fresh = LLM("dummy:tiny:bf16", max_batch=8, max_len=64, page_size=4, prefix_cache=False)
    assert again == [(out.outputs[0].token_ids, out.outputs[0].logprobs) for out in fresh.generate(longer, params)]


@pytest.mark.parametrize("sampling", SAMPLING)
def test_same_text_in_several_passes(sampling, monkeypatch):
    """Where nobody asks for log-probabilities a step may take several passes; texts of several lengths, some of which end in between."""
    asked = prompts(8, VOCAB)
    wanted = [replace(params(sampling, 5 + 9 * place, 2), logprobs=None) for place in range(len(asked))]
    wanted[3] = replace(wanted[3], stop_token_ids=tuple(range(0, VOCAB, 9)))

    taken: list[int] = []

    def texts(plain: bool = True) -> list:
        llm = LLM("dummy:tiny:bf16", max_batch=8, max_len=192)
        runner = llm.engine.core.executor.runner
        if not plain:
            monkeypatch.setattr(runner, "_plain", lambda chunks: False)
        run = runner._decode
        monkeypatch.setattr(runner, "_decode", lambda plan: (taken.append(plan.passes), run(plan))[1])
        return [[(tuple(s.token_ids), s.finish_reason) for s in out.outputs] for out in llm.generate(asked, wanted)]

    several = texts()
    assert (max(taken, default=1) > 1) == (sampling != "penalties"), "processors act between tokens"
    taken.clear()
    monkeypatch.setattr(passes, "SPARED", 2)
    assert texts() == several, "rows that run on behind the end of their text"
    monkeypatch.setattr(passes, "COUNTS", (1,))
    taken.clear()
    assert texts() == several and max(taken, default=1) == 1
    taken.clear()
    assert texts(plain=False) == several and not taken, "as steps that are not plain"
