"""Halves of norms as the last step of products of few rows, whose source runs by hand. Gates: test_pairs.py; a whole model: cases_fused.py.
Compiled: here all ends with the marker compiled, one of each sort in test_packed.py and test_bulk.py.
"""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from slipstream.base.errors import InputError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
from tests.ops.scenes import equal_bits, fitting, random, stored  # noqa: E402
from tests.triton import by_hand  # noqa: E402
from tests.triton.test_compiled import compile_forms  # noqa: E402
from tests.triton.test_packed import check  # noqa: E402

WIDTH, INPUTS = 80, 288  # no tile divides them
EPS = 1e-5
CASES = {  # kernel, its form, format, rows
    "streamed": ("Stream", dict(rows=8, deep=2, fill=1), "int4", 11),
    "streamed, segments": ("Stream", dict(rows=16, deep=2, wide=2, each=64), "int4_zero", 5),
    "folded": ("Folded", dict(rows=16, warps=4, depth=64, fill=1), "int4", 16),
    "folded, segments": ("Folded", dict(rows=8, warps=4, each=32, fill=64), "int8", 7),
    "carried, segments": ("Carried", dict(rows=16, ring=3), "int4", 9),
    "bulk": ("Bulk", dict(rows=8, ring=3, fill=1), "bf16", 1),
    "bulk, segments": ("Bulk", dict(rows=16, ring=3, fill=12), "bf16", 13),
}


def product_of(case: str, biased: bool = True):
    """(run(x, out, end), rows): a layer [WIDTH, INPUTS] and a bias by hand; x [rows, INPUTS]."""
    name, shape, format, rows = CASES[case]
    module, inputs = getattr(by_hand.products(), case.split(",")[0]), fitting(format, INPUTS)
    tensors, bias, way = stored(format, WIDTH, inputs), random(WIDTH, seed=3) if biased else None, getattr(module, name)(**shape)
    if name == "Bulk":
        weight, arrived = tensors["weight"], module.counters(WIDTH, torch.device("cpu"))
        return lambda x, out, end: module.product(x, weight, arrived, bias, out, way, end=end), rows
    from slipstream.ops.triton.packing import pack

    layer = pack(tensors)
    way = way if name == "Carried" else module.fitting(layer.form, way)
    return lambda x, out, end: module.product(F.pad(x, (0, layer.form.k - inputs)), layer, bias, out, way, end), rows


def norming(rows: int, width: int):
    """A stream with a norm behind it, of which nothing is there yet."""
    from slipstream.ops.types import Norming

    scaled, squares = torch.full((rows, width), torch.nan).bfloat16(), torch.full((rows, width), torch.nan)
    return Norming(random(rows, width, seed=7), random(width, seed=8), EPS, scaled, squares)


@pytest.mark.parametrize("case", CASES)
def test_the_layer_before_adds_to_the_stream_and_begins_its_norm(case):
    from slipstream.ops.triton.fused import PLAIN, ended

    product, rows = product_of(case)
    x, norm, sums = random(rows, INPUTS, seed=2).bfloat16(), norming(rows, WIDTH), torch.full((rows, WIDTH), torch.nan)
    product(x, sums, PLAIN)
    wanted = sums + norm.stream
    product(*ended(x, norm))
    assert equal_bits(norm.stream, wanted) and equal_bits(norm.scaled, (wanted * norm.weight).bfloat16())
    squares, rest = norm.squares.flatten().split([norm.parts * rows, rows * WIDTH - norm.parts * rows])
    torch.testing.assert_close(squares.view(-1, rows).sum(0), wanted.square().sum(1), rtol=1e-6, atol=0)
    assert rest.isnan().all()


@pytest.mark.parametrize("case, parts", [*((case, 161) for case in CASES), ("bulk", 3), ("carried, segments", 3)])
def test_the_layer_behind_ends_it(case, parts):
    """Its sums are multiplied by one number a row, before its bias; parts are more or fewer than outputs of a program."""
    from slipstream.ops.triton.fused import PLAIN, ended

    (product, rows), (bare, _) = product_of(case), product_of(case, biased=False)
    norm = norming(rows, INPUTS)
    norm.scaled, norm.parts = random(rows, INPUTS, seed=2).bfloat16(), parts
    squares = random(parts, rows, seed=9).square()
    norm.squares.view(-1)[: parts * rows] = squares.flatten()
    sums, found = torch.full((2, rows, WIDTH), torch.nan)
    bare(norm.scaled, sums, PLAIN)
    product(*ended(norm, found))
    factor = 1 / torch.sqrt(squares.sum(0) / INPUTS + EPS)
    torch.testing.assert_close(found, sums * factor[:, None] + random(WIDTH, seed=3), rtol=1e-6, atol=1e-6)


def test_both_halves_are_the_norm():
    """Against fp64; the layer behind is gated, too."""
    from slipstream.ops.triton.fused import ended
    from slipstream.ops.triton.pairs import paired

    bulk = by_hand.products().bulk
    product, rows = product_of("streamed, segments")
    norm, x = norming(rows, WIDTH), random(rows, INPUTS, seed=2).bfloat16()
    weight, out = random(64, WIDTH, seed=4).bfloat16() / 8, torch.full((rows, 32), torch.nan).bfloat16()
    product(*ended(x, norm))
    scaled, out, end = ended(norm, out, "silu")
    bulk.product(scaled, paired({"weight": weight})["weight"], bulk.counters(64, x.device), None, out, bulk.Bulk(16, 64, 3, 12), end=end)
    stream = norm.stream.double()
    normed = stream / (stream.square().mean(1, keepdim=True) + EPS).sqrt() * norm.weight.double()
    gate, up = (normed @ weight.double().T).chunk(2, 1)
    wanted = F.silu(gate) * up
    assert (out.double() - wanted).norm() < 0.006 * wanted.norm()


def test_one_kernel_has_one_half():
    from slipstream.ops.triton.fused import ended

    with pytest.raises(InputError, match="both Normings"):
        ended(norming(1, 16), norming(1, 16))


@pytest.mark.compiled
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("format", ["int4", "q4_k"])
def test_every_product_with_an_end_fits(tmp_path, format):
    forms = compile_forms(tmp_path, "--shapes", "llama-3.1-8b", "--ends", format, "--kernels", "packed_", "bulk", timeout=950)
    with_end = [form for form in forms if ", " in form["form"]]
    assert {form["form"].split(", ", 1)[1] for form in with_end} == {"gated", "ends a norm", "ends a norm, gated", "begins a norm"}
    assert {form["kernel"] for form in with_end} == {"bulk", "packed_stream", "packed_fold"}
    check([form for form in with_end if form["kernel"] != "bulk"])
    assert all(form["spills"] == 0 for form in with_end if form["kernel"] == "bulk" or "norm" in form["form"])
