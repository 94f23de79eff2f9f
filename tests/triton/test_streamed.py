"""Whole-number products by single warps and by groups of warps: their source run by hand. Compiled: test_packed.py."""

import importlib.util

import pytest
import torch

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from tests.ops.scenes import INTEGERS, fitting, meaning, random, stored  # noqa: E402
from tests.triton import by_hand  # noqa: E402


@pytest.fixture(scope="module")
def streamed():
    return by_hand.imported("slipstream.ops.triton.streamed")


@pytest.fixture(scope="module")
def folded():
    return by_hand.imported("slipstream.ops.triton.folded")


def layer(format: str, n: int, k: int):
    from slipstream.ops.triton.packing import pack

    tensors = stored(format, n, fitting(format, k))
    return pack(tensors), meaning(format, tensors)


def product(module, x, packed, bias, chosen):
    rows, form = len(x), packed.form
    padded = torch.nn.functional.pad(x.bfloat16(), (0, form.k - form.inputs))
    out = torch.full((rows, form.outputs + 9), torch.nan)
    module.product(padded, packed, bias, out[:, 5 : 5 + form.outputs], module.fitting(form, chosen))
    assert out[:, :5].isnan().all() and out[:, 5 + form.outputs :].isnan().all() and not packed.arrived.any()
    return out[:, 5 : 5 + form.outputs]


def assert_right(found, x, weight, bias):
    found, exact = found.double(), x.bfloat16().double()
    assert (abs(found - exact @ weight.T - bias) <= 2e-6 * (abs(exact) @ abs(weight).T + abs(bias))).all()


SMALL, LARGE = dict(rows=8, deep=2), dict(rows=16, deep=2, wide=2, each=64, ahead=2)


@pytest.mark.parametrize("format, stream", [*((name, SMALL) for name in INTEGERS), ("int4_zero", LARGE), ("q4_k", LARGE)])
def test_single_warps_against_what_the_weights_mean(streamed, format, stream):
    packed, weight = layer(format, 130, 544)
    x, bias = random(11, weight.shape[1], seed=2), random(130, seed=3)
    assert_right(product(streamed, x, packed, bias, streamed.Stream(**stream)), x, weight, bias)


SHORT = dict(rows=16, warps=4, depth=64, ahead=1, sides=4, fill=64, across=1)
LONG = dict(rows=8, warps=4, each=32, depth=128, ahead=2, fill=16)


@pytest.mark.parametrize("format, shape", [*((name, SHORT) for name in INTEGERS), ("int4_zero", LONG), ("q4_k", LONG), ("int8", LONG)])
def test_scales_that_go_into_the_weight(folded, format, shape):
    """Against weights of scales that are bf16 as they are; of K-quants, whose scales are products, within three roundings."""
    from slipstream.ops.triton.packing import pack

    tensors = stored(format, 130, fitting(format, 544))
    exact = format.endswith("_k")
    if format not in ("int8", "q4_k", "q6_k"):
        tensors["scale"] = tensors["scale"].bfloat16().half()
    weight = meaning(format, tensors)
    x, bias = random(11, weight.shape[1], seed=2), random(130, seed=3)
    found = product(folded, x, pack(tensors), bias, folded.Folded(**shape))
    if exact:
        room = 3 * 2**-9 * (abs(x.bfloat16().double()) @ abs(weight).T)
        assert (abs(found - x.bfloat16().double() @ weight.T - bias) <= room).all()
    else:
        assert_right(found, x, weight if format == "int8" else weight.bfloat16().double(), bias)
