"""Whole-number products by single warps: their source run by hand, and compiled to sm_90 without a GPU."""

import importlib.util

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from tests.ops.scenes import INTEGERS, fitting, meaning, random, stored  # noqa: E402
from tests.triton import by_hand  # noqa: E402


@pytest.fixture(scope="module")
def streamed():
    return by_hand.imported("slipstream.ops.triton.streamed")


def layer(format: str, n: int, k: int):
    from slipstream.ops.triton.packing import pack

    tensors = stored(format, n, fitting(format, k))
    return pack(tensors), meaning(format, tensors)


def product(streamed, x, packed, bias, **stream):
    rows, form = len(x), packed.form
    padded = torch.nn.functional.pad(x.bfloat16(), (0, form.k - form.inputs))
    out = torch.full((rows, form.outputs + 9), torch.nan)
    chosen = streamed.fitting(form, streamed.Stream(**stream))
    streamed.product(padded, packed, bias, out[:, 5 : 5 + form.outputs], chosen)
    assert out[:, :5].isnan().all() and out[:, 5 + form.outputs :].isnan().all() and not packed.arrived.any()
    return out[:, 5 : 5 + form.outputs]


@pytest.mark.parametrize("format", [*INTEGERS])
@pytest.mark.parametrize("stream", [dict(rows=8, deep=4, wide=1), dict(rows=16, deep=2, wide=2, each=64, ahead=1)], ids=str)
def test_against_what_the_weights_mean(streamed, format, stream):
    packed, weight = layer(format, 130, 1056)
    x, bias = random(11, weight.shape[1], seed=2), random(130, seed=3)
    found, exact = product(streamed, x, packed, bias, **stream).double(), x.bfloat16().double()
    assert (abs(found - exact @ weight.T - bias) <= 2e-6 * (abs(exact) @ abs(weight).T + abs(bias))).all()
