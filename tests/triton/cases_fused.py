"""Gate and up as one layer in pairs, in the interpreter: the bits of a linear layer and a gate. Run by test_interpreted.py."""

import pytest
import torch
from candidate import KERNELS
from scenes import equal_bits, random, stored

from slipstream.model import load_model
from slipstream.ops import triton as candidate
from slipstream.ops import triton_deterministic
from slipstream.ops.triton import fused
from slipstream.ops.types import LINEAR_FORMATS, Declined
from tests.model.paged import Paged, Rows


@pytest.fixture
def fusing(monkeypatch):
    monkeypatch.setitem(fused.UP_TO, "gate", dict.fromkeys(("bf16", "int4"), 64))


def test_formats_that_nobody_measured_decline():
    for format in LINEAR_FORMATS:
        answer = candidate.offer(f"gate_up_{format}", "cuda")
        assert isinstance(answer, Declined) and format in answer.reason


@pytest.mark.parametrize("format, activation, op", [("bf16", "silu", "gated"), ("int4", "gelu_tanh", "gated_gelu_tanh")])
def test_the_bits_of_a_layer_and_a_gate(fusing, format, activation, op):
    """Inner size 136: more than a tile of outputs, and pairs that end within one."""
    tensors, x, bias = stored(format, 272, 64), random(3, 64, seed=1), random(272, seed=2)
    linear, whole = KERNELS.linear(format), KERNELS.gate_up(format)
    products, wanted, found = torch.empty(3, 272), torch.empty(3, 136).bfloat16(), torch.full((3, 136), torch.nan).bfloat16()
    linear.run(x, linear.prepare(tensors), bias, products)
    getattr(KERNELS, op)(products, wanted)
    whole.run(x, whole.prepare(tensors, bias), activation, torch.full((3, 272), torch.nan), found)
    assert equal_bits(found, wanted) and whole.reads is linear.reads


def test_deterministic_settings_have_it_too(fusing):
    answer = triton_deterministic.offer("gate_up_int4", "cuda")
    assert answer.linear.invariant and answer == candidate.offer("gate_up_int4", "cuda").deterministic()


@pytest.mark.parametrize("format", ["bf16", "fp32"])
def test_a_model_has_the_same_logits(monkeypatch, fusing, format):
    """fp32 layers stay apart: their kernel declines."""
    with monkeypatch.context() as without:
        without.setitem(fused.UP_TO, "gate", {})
        (wanted,) = Paged(load_model(f"dummy:tiny:{format}", KERNELS, max_rows=4, max_logit_rows=4)).step(Rows(0, [3, 1, 4, 1]))
    (found,) = Paged(load_model(f"dummy:tiny:{format}", KERNELS, max_rows=4, max_logit_rows=4)).step(Rows(0, [3, 1, 4, 1]))
    assert equal_bits(found, wanted) and isinstance(KERNELS.gate_up("fp32"), type(None))
