"""Ops that only some families need, in the interpreter: right against fp64, and a row depends on itself only. Run by test_interpreted.py.

The inputs and results are those of tests/ops/test_family_ops.py.
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from candidate import KERNELS
from scenes import attend, build_scene, equal_bits, random
from test_family_ops import OPS, ROWS, capped, with_sinks

from slipstream.arch import RouterSpec
from slipstream.base.errors import InputError
from slipstream.ops import Kernels
from slipstream.ops.reference import arithmetic
from slipstream.ops.triton import attention, elementary, elementwise, gated

REFERENCE = Kernels(only="reference")
SOME = [(0, 520, 0), (1, 0, 0), (1, 39, 2), (0, 512, 3)]  # as much as the interpreter can do in seconds
ONE_PER_ROW, ONE_PER_SEGMENT = (lambda *shape: 1), (lambda *shape: shape[-1])  # in the place of attention.splits


@pytest.mark.parametrize("op", OPS)
def test_right(op):
    make, expected = OPS[op]
    torch.testing.assert_close(make(KERNELS)(torch.arange(ROWS)).double(), expected, rtol=2e-6, atol=3e-6)


@pytest.mark.parametrize("op", OPS)
def test_a_row_has_the_same_bits_in_every_batch(op):
    compute = OPS[op][0](KERNELS)
    alone = {row: compute(torch.tensor([row]))[0] for row in (0, 5, ROWS - 1)}
    for index in ([5, 0], [ROWS - 1, 2, 5, 9, 0]):
        found = compute(torch.tensor(index))
        assert all(row not in alone or equal_bits(found[place], alone[row]) for place, row in enumerate(index)), (op, index)


def test_wide_rows_and_parts():
    """More numbers than one program takes, and parts of a whole row."""
    x, gate, weight = random(3, 2500, seed=1) * 3, random(3, 2 * 2500, seed=2) * 3, random(2400, seed=3)
    slices = [("norm_slices", (weight, start, size, 1e-5)) for start, size in ((60, 2400), (0, 300))]
    for op, arguments in [("gelu", ()), ("softcap", (5.0,)), *slices]:
        want, got = x.clone(), x.clone()
        getattr(REFERENCE, op)(want, *arguments)
        getattr(KERNELS, op)(got, *arguments)
        torch.testing.assert_close(got, want, rtol=3e-6, atol=3e-6)
    want, got = torch.empty(3, 2500), torch.empty(3, 2500)
    REFERENCE.gated_gelu(gate, want)
    KERNELS.gated_gelu(gate, got)
    torch.testing.assert_close(got, want, rtol=3e-6, atol=3e-6)


def test_activations_near_zero_and_far_out():
    small = torch.logspace(-20, 0, 301)
    x = torch.cat([torch.linspace(-12, 12, 4001), small, -small, torch.tensor([1e30, -1e30, 0.0])])
    exactly = {"gelu": arithmetic.gelu_of, "gelu_tanh": arithmetic.gelu_tanh_of, "softcap": lambda x: 2 * arithmetic.tanh(x / 2)}
    for op, exact in exactly.items():
        got = x[None].clone()
        getattr(elementwise, op)(got, *([2.0] if op == "softcap" else []))
        torch.testing.assert_close(got[0], exact(x), rtol=3e-6, atol=1e-7, msg=lambda text, op=op: f"{op}: {text}")
    assert elementary.activated is gated.activated, "one definition for both kinds of layers"


@pytest.mark.parametrize("dtype, window, fill", [(torch.float32, 33, ONE_PER_ROW), (torch.bfloat16, 0, ONE_PER_SEGMENT)])
@pytest.mark.parametrize("way", [capped, with_sinks])
def test_attention(way, dtype, window, fill, monkeypatch):
    monkeypatch.setattr(attention, "splits", fill)
    scene = build_scene(SOME, kv_heads=1, group=3, head_dim=20, dtype=dtype)
    got = way(KERNELS, scene, window)
    scene.qkv = scene.qkv.to(dtype).float()  # queries meet keys in the cache's type
    tolerance = 3e-6 if dtype is torch.float32 else 2**-7
    torch.testing.assert_close(got, way(REFERENCE, scene, window), atol=tolerance, rtol=tolerance)


FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16


@pytest.mark.parametrize(
    "way, dtype, by_tile",
    [(capped, FP8, True), (capped, BF16, False), (capped, torch.float32, True), (with_sinks, FP8, False), (with_sinks, BF16, True)],
)
def test_attention_over_other_caches(way, dtype, by_tile, monkeypatch):
    """In windows, by tiles or in parts of each row."""
    monkeypatch.setattr(attention, "BY_TILE", 1 if by_tile else 512)
    monkeypatch.setattr(attention, "splits", ONE_PER_ROW if by_tile else ONE_PER_SEGMENT)
    form = attention.Form(16, 32, 4, 3, fill=1, segment=32)
    monkeypatch.setattr(attention, "form_of", lambda *asked: form)
    scene = build_scene([(0, 70, 0), (1, 0, 0), (1, 39, 2), (1, 40, 3)], kv_heads=1, group=3, head_dim=20, dtype=dtype)
    got = way(KERNELS, scene, 33)
    rounded = torch.float16 if dtype is FP8 else dtype
    scene.qkv = scene.qkv.to(rounded).float()
    tolerance = {torch.float32: 3e-6, BF16: 2**-7, torch.float16: 2**-10}[rounded]
    torch.testing.assert_close(got, way(REFERENCE, scene, 33), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("way", [capped, with_sinks])
def test_an_attention_row_has_the_same_bits_in_every_company(way, monkeypatch):
    fixed = {op: partial(getattr(attention, op), forms=attention.ONE) for op in ("attention_softcap", "attention_sinks")}
    together = way(SimpleNamespace(**fixed), build_scene(SOME, kv_heads=1), 60)
    for fill in (ONE_PER_ROW, ONE_PER_SEGMENT):
        monkeypatch.setattr(attention, "splits", fill)
        for row, place in enumerate(SOME[1:], 1):
            assert equal_bits(way(SimpleNamespace(**fixed), build_scene([place], kv_heads=1, layout=3, page_size=7), 60)[0], together[row])


def test_a_sink_that_nothing_reaches_is_none_and_one_above_all_takes_all():
    scene = build_scene(SOME[1:3])
    assert equal_bits(with_sinks(KERNELS, scene, level=-1000), attend(KERNELS, scene))
    assert (with_sinks(KERNELS, scene, level=1000) == 0).all()


def test_experts_with_equal_scores_go_by_their_numbers():
    numbers, shares = torch.empty(1, 3, dtype=torch.int32), torch.empty(1, 3)
    KERNELS.route(torch.tensor([[1.0, 2, 1, 2, 1, 1]]), None, RouterSpec(6, 3), numbers, shares)
    assert numbers.tolist() == [[0, 1, 3]] and shares[0, 1] == shares[0, 2]
    KERNELS.route(torch.zeros(1, 6), None, RouterSpec(6, 3, groups=3, kept=2), numbers, shares)
    assert numbers.tolist() == [[0, 1, 2]]


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="cap=0"):
        KERNELS.softcap(torch.zeros(1, 4), 0)
    with pytest.raises(InputError, match="cap=0"):
        capped(KERNELS, build_scene(SOME[1:2]), cap=0)
    with pytest.raises(InputError, match="norm_slices: 8 columns from 4 on in slices of 3"):
        KERNELS.norm_slices(torch.zeros(1, 12), torch.zeros(8), 4, 3, 1e-5)
    with pytest.raises(InputError, match="add: y must be"):
        KERNELS.add(torch.zeros(1, 4), torch.zeros(1, 5))
