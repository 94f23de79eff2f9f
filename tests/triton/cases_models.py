"""Decoders of every family on interpreted Triton kernels: the reference's logits, row by row, whatever else is in the batch; and the
engine on one of each sort. Run by test_interpreted.py, the whole table of tests/contract/families.py with the marker slow.
"""

import random
from dataclasses import replace

import pytest
import torch
from candidate import KERNELS

from slipstream import LLM, SamplingParams
from slipstream.arch.detect import config_to_spec
from slipstream.model import build, load_model
from slipstream.ops import Kernels
from slipstream.ops import triton as candidate
from tests.contract.families import CASES
from tests.model.paged import Paged, Rows

SORTS = {  # one of each sort
    "gemma2": "bounded scores and logits, norms after sub-layers, gelu gates, windows",
    "falcon-7b": "LayerNorm, parallel residual, one key head, gelu, tied head",
    "gpt-oss": "sinks, clamped gates, experts, windows",
}
LENGTH = 9
offer_on_cuda = candidate.offer


def some_tokens(length, seed):
    return random.Random(seed).choices(range(97), k=length)


@pytest.fixture
def named(monkeypatch):
    """Lets "dummy:<case>" be the model of a case, with random weights; of "dummy:<case>-short" the first two layers."""

    def shape(name):
        case = CASES[name.removesuffix("-short")]
        spec = config_to_spec({**case.base, **case.config, "architectures": [case.model]})
        return replace(spec, layers=spec.layers[:2]) if name.endswith("-short") else spec

    monkeypatch.setattr(build, "shape", shape)


def cases():
    return [f"{name}-short" for name in SORTS] + [pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", cases())
def test_logits_of_the_reference_in_any_company(named, name):
    least = CASES[name.removesuffix("-short")].least
    tokens, case = some_tokens(LENGTH + least, 5), f"dummy:{name}:fp32"
    both = (Kernels(only="reference"), KERNELS)
    on_reference, on_triton = (load_model(case, kernels, max_rows=40, max_logit_rows=40) for kernels in both)
    (expected,) = Paged(on_reference).step(Rows(0, tokens))
    crowd = Paged(on_triton, seed=4, page_size=7)
    first = crowd.step(Rows(1, some_tokens(3, 7)), Rows(0, tokens[:-2]))[1]
    second = crowd.step(Rows(0, tokens[-2:]), Rows(2, [5]))[0]
    found = torch.cat([first, second])
    assert expected.std() > 0.02, "logits too small to compare"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max().clamp(min=1)))


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("gemma2", "gpt2", "gpt-oss")]


@pytest.mark.parametrize("name", ["falcon-7b-short", *SLOWER])
def test_same_text(named, name, monkeypatch):
    """Deterministic settings on the kernels of a GPU: alone, and in a batch with other chunks and pages."""
    monkeypatch.setattr(candidate, "offer", lambda op, device: offer_on_cuda(op, "cuda"))
    asked = [some_tokens(3, 1), some_tokens(6, 2)]
    params = SamplingParams(max_tokens=2, ignore_eos=True, logprobs=1, temperature=0.8, seed=4)

    def texts(prompts, **options):
        llm = LLM(f"dummy:{name}:bf16", kernels="triton", deterministic=True, max_len=64, max_step_tokens=32, max_batch=4, **options)
        return [(sample.token_ids, sample.logprobs) for output in llm.generate(prompts, params) for sample in output.outputs]

    alone = [text for prompt in asked for text in texts([prompt], prefix_cache=False)]
    assert texts(asked, max_chunk=4, page_size=5) == alone
