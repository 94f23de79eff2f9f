"""The engine on Triton kernels, interpreted: the same loop, worker and tests as on a GPU, with the CPU's memory."""

from dataclasses import replace

import pytest
import torch
from candidate import KERNELS
from scenes import equal_bits

from slipstream import LLM, SamplingParams
from slipstream.model import load_model
from slipstream.ops import triton as candidate
from slipstream.ops.triton import attention
from slipstream.scheduler import passes
from slipstream.worker import company
from tests.model.paged import Paged, Rows
from tests.promises.oracles import RandomTree
from tests.promises.scenarios import prompts
from tests.tools.steps import watch_steps

NEW = 3
offer_on_cuda = candidate.offer


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Lets the candidate serve the CPU, where the interpreter runs."""
    monkeypatch.setattr(candidate, "offer", lambda op, device: offer_on_cuda(op, "cuda"))


def engine(**options) -> LLM:
    return LLM("dummy:tiny:bf16", kernels="triton", deterministic=True, max_len=128, max_step_tokens=32, max_batch=4, **options)


def test_same_text():
    """A few of the scenarios of tests/promises: alone, in a batch with chunks, other pages, drafts and prefix hits."""
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, logprobs=1, temperature=0.9, seed=3, top_p=0.9)
    asked = [prompts(8, 512)[index][:9] for index in (2, 6)]
    alone = engine(prefix_cache=False)
    expected = []
    for prompt in asked:
        sample = alone.generate([prompt], params)[0].outputs[0]
        expected.append((sample.token_ids, sample.logprobs))
    known = [[*prompt, *tokens] for prompt, (tokens, _) in zip(asked, expected, strict=True)]
    for times, options in ((2, dict(max_chunk=7, page_size=4)), (1, dict(speculate=RandomTree(known, 512), page_size=5, max_chunk=20))):
        llm = engine(**options)
        assert llm.engine.config.profile.startswith("triton-deterministic")
        for _ in range(times):  # the second time with what the first has left in the cache
            outputs = llm.generate(asked, params)
            assert [(output.outputs[0].token_ids, output.outputs[0].logprobs) for output in outputs] == expected


def test_same_text_in_four_bits_over_a_cache_in_fp8():
    params = SamplingParams(max_tokens=2, ignore_eos=True, logprobs=1, temperature=0.9, seed=3)
    asked = [prompts(8, 512)[index][:7] for index in (2, 6)]

    def texts(groups, **options):
        llm = engine(quant="int4", kv="fp8", prefix_cache=False, **options)
        assert "/w-int4/kv-fp8" in llm.engine.config.profile
        outputs = [output.outputs[0] for group in groups for output in llm.generate(group, params)]
        return [(sample.token_ids, sample.logprobs) for sample in outputs]

    assert texts([asked], max_chunk=5) == texts([[prompt] for prompt in asked])


@pytest.mark.slow  # 12 s
def test_same_text_in_rounds(monkeypatch):
    """Two checks of a guess in one step, between which the device alone works out where rows lie, filled up to a size of steps."""
    params, rounds, texts = SamplingParams(max_tokens=6, ignore_eos=True, temperature=0), [], []
    asked = [[7], [8], [9]]
    monkeypatch.setattr(passes, "WHOLE", 1e9)  # the interpreter is slow
    for options in (dict(), dict(speculate="eagle:path=dummy,nodes=1,depth=1", control=False)):
        llm = engine(prefix_cache=False, **options)
        note = lambda plan, result: rounds.extend(outcome.rounds for outcome in result.outcomes if outcome.rounds)  # noqa: E731
        watch_steps(llm.engine.core.executor.runner, note)
        texts.append([output.outputs[0].token_ids for output in llm.generate(asked, params)])
    assert texts[0] == texts[1] and rounds


def test_same_text_where_samples_share_the_keys_of_their_prompt(monkeypatch):
    """Two samples of a prompt, in steps of several passes and of one (log-probabilities): its keys read for each or once for both."""
    form = replace(attention.MANY, block_keys=16, segment=16, fill=1)
    monkeypatch.setattr(attention, "ONE", ((1 << 31, form, form),))
    monkeypatch.setattr(company, "LEAST_KEYS", 16)
    monkeypatch.setattr(company, "LEAST_ROWS", 2)
    shared, make = [], attention.together_variant
    monkeypatch.setattr(attention, "together_variant", lambda *of, **special: shared.append(of) or make(*of, **special))
    texts = []
    for table in ({}, {(attention.ONE, "*bf16"): replace(form, group_rows=64)}):
        monkeypatch.setattr(attention, "sharing", lambda table=table: table)
        llm, seen = engine(page_size=8, prefix_cache=False), len(shared)
        for logprobs in (None, 1):
            params = SamplingParams(n=2, max_tokens=2, ignore_eos=True, temperature=0.9, seed=3, logprobs=logprobs)
            samples = llm.generate([prompts(8, 512)[2][:9] * 2], params)[0].outputs
            texts.append([(sample.token_ids, sample.logprobs) for sample in samples])
            assert (len(shared) > seen) == bool(table)
            seen = len(shared)
    assert texts[:2] == texts[2:]


@pytest.mark.parametrize("name", ["tiny", "tiny:fp32"])
def test_buffers_in_the_type_that_linear_layers_read_change_no_bits(name, monkeypatch):
    def logits() -> tuple[torch.Tensor, dict[str, torch.dtype]]:
        decoder = load_model(f"dummy:{name}", KERNELS, max_rows=5, max_logit_rows=5)
        buffers = decoder._scratch.rows(5) | decoder._head_scratch.rows(5)
        return Paged(decoder).step(Rows(0, [5, 2, 7, 1, 9]))[0], {key: buffer.dtype for key, buffer in buffers.items()}

    found, types = logits()
    narrow = {key for key, dtype in types.items() if dtype is torch.bfloat16}
    assert narrow == ({"normed", "attended", "gated"} if name == "tiny" else set())
    monkeypatch.setattr(KERNELS, "linear", lambda format, linear=KERNELS.linear: Unrounded(linear(format)))
    expected, types = logits()
    assert set(types.values()) == {torch.float32}
    assert equal_bits(found, expected)


class Unrounded:
    """A linear kernel that does not say what it reads."""

    def __init__(self, kernel):
        self.prepare, self.run = kernel.prepare, kernel.run


def test_text_of_the_reference():
    """Greedy text on Triton kernels and on the reference: other profiles, but the same model."""
    params = SamplingParams(max_tokens=NEW, ignore_eos=True, temperature=0)
    prompt = prompts(8, 512)[5]
    on_triton, on_reference = (LLM("dummy:tiny:fp32", kernels=kernels, max_len=128) for kernels in ("triton", "reference"))
    texts = [llm.generate([prompt], params)[0].outputs[0].token_ids for llm in (on_triton, on_reference)]
    assert texts[0] == texts[1]
