"""Products of few rows with bf16 weights as they lie: the kernel's source run by hand, and who serves how many rows.

Compiled: test_compiled.py, where every form that ships is, and here the forms that the suite tries.
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
from tests.triton.test_compiled import SHARED_LIMIT  # noqa: E402


@pytest.fixture(scope="module")
def direct():
    from types import ModuleType

    parent = ModuleType("slipstream.ops.triton")
    parent.streamed = by_hand.imported("slipstream.ops.triton.streamed")
    return by_hand.imported("slipstream.ops.triton.direct", **{parent.__name__: parent, f"{parent.__name__}.streamed": parent.streamed})


def scene(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return random(m, k, seed=1).bfloat16(), (random(n, k, seed=2) / k**0.5).bfloat16(), random(n, seed=3)


def product(direct, x, weight, bias, form):
    """In columns of a wider tensor, nothing of which is touched beside them."""
    (m, n), arrived = (len(x), len(weight)), direct.counters(len(weight), x.device)
    out = torch.full((m, n + 9), torch.nan)
    direct.product(x, weight, arrived, bias, out[:, 5 : 5 + n], form)
    assert out[:, :5].isnan().all() and out[:, 5 + n :].isnan().all() and not arrived.any()
    return out[:, 5 : 5 + n]


FORMS = (
    dict(rows=8, deep=2, each=16, step=32, ahead=3),
    dict(rows=16, deep=4, each=32, step=64, ahead=1),
    dict(rows=32, deep=1, each=64, step=128),
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("m, n, k", [(1, 16, 128), (7, 130, 640)])
@pytest.mark.parametrize("fill", [1, 2112])
def test_against_exact_sums(direct, form, m, n, k, fill):
    """In one segment and in several, with outputs that no tile divides and stages that no round of warps does."""
    x, weight, bias = scene(m, n, k)
    form = direct.Direct(**form, fill=fill)
    exact, size = x.double() @ weight.double().T, x.double().abs() @ weight.double().abs().T
    for added in (None, bias):
        found = product(direct, x, weight, added, form).double()
        wanted = exact if added is None else exact + added
        assert ((found - wanted).abs() <= 2e-6 * (size + wanted.abs())).all()


@pytest.mark.parametrize("form", [FORMS[0] | dict(step=64), FORMS[1], FORMS[2]])
@pytest.mark.parametrize("m, n, k, codes", [(1, 16, 256, True), (7, 70, 640, True), (7, 70, 640, False)])
def test_codes_against_exact_sums(direct, form, m, n, k, codes):
    """Weights in e4m3, every code among them, times x in bf16 or in codes with their scale behind each row."""
    x, (every, bias) = random(m, k, seed=1).bfloat16(), (torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn), random(n, seed=3))
    every = every[every.float().isfinite()]
    weight, scale = every[torch.randint(len(every), (n, k), generator=torch.Generator().manual_seed(4))], random(n, seed=5).abs() + 0.1
    meant, exact = (weight.float() * scale[:, None]).double(), x.double()
    if codes:
        step = random(m, seed=6).abs() + 0.1
        room = torch.full((m, 4), torch.nan)
        room[:, 0] = step
        narrow = (x.float() * 3).to(torch.float8_e4m3fn)
        exact, x = (narrow.float() * step[:, None]).double(), torch.cat([narrow, room.view(torch.float8_e4m3fn)], 1)
    arrived, out = direct.counters(n, x.device), torch.full((m, n + 9), torch.nan)
    direct.product(x, weight, arrived, bias, out[:, 5 : 5 + n], direct.Direct(**form), scale)
    assert out[:, :5].isnan().all() and out[:, 5 + n :].isnan().all() and not arrived.any()
    assert ((out[:, 5 : 5 + n].double() - exact @ meant.T - bias).abs() <= 2e-6 * (exact.abs() @ meant.abs().T + bias.abs())).all()


def test_several_segments_are_counted(direct):
    assert direct.cut(10, 9, 1, 2112) == (10, 1) and direct.cut(10, 9, 1, 1) == (1, 10)
    assert direct.cut(64, 256, 8, 2112) == (1, 64)


def test_rows_outside_are_not_read_and_infinite_ones_stay_with_themselves(direct):
    x, weight, _ = scene(3, 16, 256)
    x[1, 17] = torch.inf
    found = product(direct, x, weight, None, direct.Direct(8, 2))
    assert found[[0, 2]].isfinite().all() and not found[1].isfinite().any()
    torch.testing.assert_close(found[[0, 2]], x[[0, 2]].float() @ weight.float().T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("m, k, name", [(9, 128, "takes up to 8 rows"), (1, 136, "a multiple of 128")])
def test_what_does_not_fit_is_named(direct, m, k, name):
    x, weight, _ = scene(m, 16, k)
    with pytest.raises(InputError, match=name):
        product(direct, x, weight, None, direct.Direct(8))


def test_who_serves_how_many_rows():
    from slipstream.ops.triton import plain

    for table in (plain.SMALL, plain.LARGE, plain.HUGE):
        for most, chosen in table:
            assert plain.way(4096, 4096, most, table) == chosen
            assert chosen == plain.CUBLAS or most <= chosen.rows, "more rows than a program takes"
        assert table[-1] == (1 << 31, plain.CUBLAS)
        assert plain.way(4096, 4100, 1, table) == plain.CUBLAS
    assert [plain.fast(n, 2048) for n in (3072, 8192, 128256)] == [plain.SMALL, plain.LARGE, plain.HUGE]


def test_which_layers_of_codes_it_serves():
    from slipstream.ops.triton import fp8

    codes = torch.zeros(256, 256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    by_output, by_block = ({"weight": codes, "scale": torch.ones(shape)} for shape in ((256,), (256, 2)))
    for most, form in fp8.FEW:
        assert fp8.few(most, fp8.pack(by_output)) == form and most <= form.rows
    most = max((most for most, _ in fp8.FEW), default=0)
    assert fp8.few(most + 1, fp8.pack(by_output)) is None and fp8.few(1, fp8.pack(by_block)) is None


PROGRAM = """
import json
from dataclasses import asdict
from slipstream.bench.gpu import dense_forms
from slipstream.ops.triton import compile
for variant in dense_forms.variants():
    print(json.dumps(asdict(compile.measure("", str(variant.constants), variant))))
"""


@pytest.mark.slow
def test_the_forms_that_are_tried_fit_into_registers(tmp_path):
    """Their conversions only rename registers, or they would not compile; no weight goes through shared memory."""
    compiled = environment(TRITON_CACHE_DIR=str(tmp_path))
    compiled.pop("TRITON_INTERPRET", None)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=compiled, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    forms = [json.loads(line) for line in done.stdout.splitlines()]
    assert forms
    for form in forms:
        assert form["waits"] and form["mma"] + form["wgmma"] > 0 and form["spills"] == 0 and form["shared"] <= SHARED_LIMIT, form
