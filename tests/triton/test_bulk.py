"""Products of few rows by bulk copies: the kernel's source run by hand, with barriers that count bytes; and who serves how many rows.

Compiled: test_compiled.py, where every form that ships is, and here some.
"""

import importlib.util
import json
import subprocess
import sys

import pytest
import torch

from tests.tools.package import environment

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from slipstream.base.errors import InputError  # noqa: E402
from tests.ops.scenes import random  # noqa: E402
from tests.triton import by_hand  # noqa: E402


@pytest.fixture(scope="module")
def bulk():
    return by_hand.products().bulk


def product(bulk, x, weight, bias, form):
    """In columns of a wider tensor, nothing of which is touched beside them."""
    (m, n), arrived = (len(x), len(weight)), bulk.counters(len(weight), x.device)
    out = torch.full((m, n + 9), torch.nan)
    bulk.product(x, weight, arrived, bias, out[:, 5 : 5 + n], form)
    assert out[:, :5].isnan().all() and out[:, 5 + n :].isnan().all() and not arrived.any()
    return out[:, 5 : 5 + n]


@pytest.mark.parametrize("rows, outputs, ring", [(8, 64, 3), (16, 128, 2), (64, 64, 4)])
@pytest.mark.parametrize("m, n, k", [(1, 64, 64), (7, 130, 656), (8, 70, 512)])
@pytest.mark.parametrize("fill", [1, 12])
def test_against_exact_sums(bulk, rows, outputs, ring, m, n, k, fill):
    """In one segment and in several, shorter and longer than the ring; outputs and inputs that no tile divides."""
    x, weight, bias = random(m, k, seed=1).bfloat16(), (random(n, k, seed=2) / k**0.5).bfloat16(), random(n, seed=3)
    exact, size = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    for added in (None, bias):
        found = product(bulk, x, weight, added, bulk.Bulk(rows, outputs, ring, fill)).double()
        wanted = exact if added is None else exact + added
        assert ((found - wanted).abs() <= 2e-6 * (size + wanted.abs())).all()


@pytest.mark.parametrize("rows, outputs, ring, fill", [(8, 64, 3, 1), (16, 128, 2, 12), (64, 64, 4, 12)])
@pytest.mark.parametrize("m, n, k", [(1, 64, 128), (7, 130, 640)])
def test_codes_against_exact_sums(bulk, rows, outputs, ring, fill, m, n, k):
    """Weights in e4m3 and x in codes with their scale behind each row."""
    weight, scale, bias = random(n, k, seed=2).to(torch.float8_e4m3fn), random(n, seed=5).abs() + 0.1, random(n, seed=3)
    step, narrow = random(m, seed=6).abs() + 0.1, (random(m, k, seed=1) * 3).to(torch.float8_e4m3fn)
    room = torch.full((m, 4), torch.nan)
    room[:, 0] = step
    x, arrived = torch.cat([narrow, room.view(torch.float8_e4m3fn)], 1), bulk.counters(n, narrow.device)
    out = torch.full((m, n + 9), torch.nan)
    bulk.product(x, weight, arrived, bias, out[:, 5 : 5 + n], bulk.Bulk(rows, outputs, ring, fill), scale)
    assert out[:, :5].isnan().all() and out[:, 5 + n :].isnan().all() and not arrived.any()
    exact, meant = (narrow.float() * step[:, None]).double(), (weight.float() * scale[:, None]).double()
    assert ((out[:, 5 : 5 + n].double() - exact @ meant.T - bias).abs() <= 2e-6 * (exact.abs() @ meant.abs().T + bias.abs())).all()


@pytest.mark.parametrize("m, k, name", [(9, 128, "takes up to 8 rows"), (1, 104, "a multiple of 16")])
def test_what_does_not_fit_is_named(bulk, m, k, name):
    with pytest.raises(InputError, match=name):
        product(bulk, random(m, k, seed=1).bfloat16(), random(16, k, seed=2).bfloat16(), None, bulk.Bulk(8))


def test_who_serves_how_many_rows():
    from slipstream.ops.triton import plain

    for table in (plain.SMALL.now, plain.LARGE.now, plain.HUGE.now):
        for most, chosen in table:
            assert plain.way(4096, 4096, most, table) == chosen
            assert chosen == plain.CUBLAS or most <= chosen.rows, "more rows than a program takes"
        assert table[-1] == (1 << 31, plain.CUBLAS)
        assert plain.way(4096, 4100, 1, table) == plain.CUBLAS
    assert [plain.by_size(n * 2048) for n in (3072, 8192, 128256)] == [plain.SMALL, plain.LARGE, plain.HUGE]


def test_which_layers_of_codes_it_serves():
    from slipstream.ops.triton import fp8, plain

    codes = torch.zeros(256, 256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    by_output, by_block = ({"weight": codes, "scale": torch.ones(shape)} for shape in ((256,), (256, 2)))
    few = [(most, way) for most, way in fp8.CODES.now if isinstance(way, plain.Bulk)]
    for most, form in few:
        assert fp8.few(most, fp8.pack(by_output)) == form and most <= form.rows
    most = max((most for most, _ in few), default=0)
    assert fp8.few(most + 1, fp8.pack(by_output)) is None and fp8.few(1, fp8.pack(by_block)) is None


PROGRAM = """
import json
from dataclasses import asdict
from slipstream.ops.triton import bulk, compile
from slipstream.ops.triton.fused import AS_IT_IS, Ending
for rows, narrow, ending in ((8, False, Ending(norm="begins")), (8, True, Ending("gelu", out="*bf16")), (64, False, AS_IT_IS)):
    print(json.dumps(asdict(compile.measure("bulk", "", bulk.variant(True, bulk.Bulk(rows), narrow, ending)))))
"""


def test_it_compiles_for_hopper_and_fits(tmp_path):
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=compiled, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for form in map(json.loads, done.stdout.splitlines()):
        assert form["waits"] and form["wgmma"] > 0 and form["mma"] == 0 and form["spills"] == 0 and form["shared"] <= 113 << 10, form
