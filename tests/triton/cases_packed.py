"""Linear layers of whole-number weights in the interpreter, against the weights that they mean. Run by test_interpreted.py."""

import pytest
import torch
from candidate import KERNELS, Interpreted, candidate
from scenes import INTEGERS, equal_bits, fitting, meaning, random, stored

from slipstream.base.errors import InputError
from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.ops.triton import fp8, gemm, packed, whole, widened
from slipstream.ops.triton.packing import OUTPUTS, STEP
from slipstream.ops.types import CODED, FOUR_BITS, linear_op
from slipstream.quant.formats import awq, gptq
from tests.model.paged import Paged, Rows
from tests.quant import packings
from tests.weights import tiny

PACKED = (*INTEGERS, "fp6")


def layer(format: str, n: int, k: int):
    tensors = stored(format, n, fitting(format, k))
    return KERNELS.linear(format), tensors, meaning(format, tensors)


def run(kernel, x, prepared, bias=None):
    out = torch.full((len(x), prepared.form.outputs), torch.nan)
    kernel.run(x, prepared, bias, out)
    return out


def assert_means(found, x, weight, bias=0.0):
    """The product of rounded activations and exact weights, but for the order of sums."""
    exact = x.bfloat16().double()
    error = (found.double() - exact @ weight.T - bias).abs()
    assert (error <= 2e-6 * (exact.abs() @ weight.abs().T + abs(bias))).all()


@pytest.mark.parametrize("format", PACKED)
@pytest.mark.parametrize("rows, n, k", [(1, 100, 288), pytest.param(3, 130, 600, marks=pytest.mark.slow)])
def test_against_what_the_weights_mean(format, rows, n, k):
    kernel, tensors, weight = layer(format, n, k)
    x, bias = random(rows, weight.shape[1], seed=2), random(n, seed=3)
    prepared = kernel.prepare(tensors)
    plain = run(kernel, x, prepared)
    assert_means(plain, x, weight)
    assert_means(run(kernel, x, prepared, bias), x, weight, bias.double())
    wide = torch.full((rows, n + 9), 7.0)
    kernel.run(x.to(kernel.reads), prepared, None, wide[:, 5 : 5 + n])
    assert equal_bits(wide[:, 5 : 5 + n], plain) and wide[:, :5].eq(7).all() and wide[:, 5 + n :].eq(7).all()


@pytest.mark.parametrize("format", PACKED)
def test_many_rows_are_multiplied_by_rounded_weights(format):
    """In two pieces of scratch; every weight is rounded to bf16 once."""
    kernel, tensors, weight = layer(format, 130, 256)
    x, bias, prepared = random(3, weight.shape[1], seed=2).bfloat16(), random(130, seed=3), kernel.prepare(tensors)
    wide = torch.full((3, 140), 7.0)
    widened.product(x, prepared, bias, wide[:, 5:135], most=OUTPUTS * prepared.form.k)
    assert_means(wide[:, 5:135], x, weight.bfloat16().double(), bias.double())
    assert wide[:, :5].eq(7).all() and wide[:, 135:].eq(7).all()


@pytest.mark.parametrize("kernel", [KERNELS.linear("int8"), KERNELS.linear("bf16"), KERNELS.linear("int8").deterministic()])
def test_who_multiplies_follows_from_the_number_of_rows_and_activations_may_be_bf16(kernel):
    tensors, rows = stored(kernel.format, 3, 256), 130 if kernel.invariant else whole.COARSE.now[-2][0] + 1
    x, prepared = random(rows, 256, seed=2), kernel.prepare(tensors)
    out, again, alone = torch.empty(rows, 3), torch.empty(rows, 3), torch.empty(1, 3)
    kernel.run(x, prepared, None, out)
    kernel.run(x.bfloat16(), prepared, None, again)
    kernel.run(x[:1].clone(), prepared, None, alone)
    assert equal_bits(out, again)
    exact = meaning(kernel.format, tensors)
    rounded = exact if kernel.invariant else exact.bfloat16().double()
    assert_means(out, x, rounded)
    assert_means(alone, x[:1], exact)


@pytest.mark.parametrize("size", [32, 64, 128, -1])
@pytest.mark.parametrize("method", ["gptq", "gptq sym", "awq"])
def test_checkpoints_of_both_kinds_in_every_group_size(method, size):
    """Packed as AutoGPTQ and AutoAWQ do; groups of 64 and 128 keep one scale and zero each."""
    weight, x = random(48, 128, seed=1), random(2, 128, seed=2)
    if method == "awq":
        parts, meant = packings.awq(size)(weight)
        laid_out = awq.lay_out(parts, group_size=size)
    else:
        sym = method.endswith("sym")
        parts, meant = packings.gptq(size=size, sym=sym)(weight)
        laid_out = gptq.lay_out(parts, bits=4, group_size=size, version=1, sym=sym)
    kernel = KERNELS.linear("int4_zero")
    prepared = kernel.prepare(laid_out)
    assert prepared.form.group == (128 if size == -1 else size) and prepared.scale.shape == (128 // prepared.form.group, OUTPUTS)
    assert_means(run(kernel, x, prepared), x, meant.double())


@pytest.mark.parametrize("format", [name for name in INTEGERS if name != "int8"])
def test_rows_of_the_weight(format):
    kernel, tensors, weight = layer(format, 70, 40)
    ids, out = torch.tensor([69, 0, 31, 32, 31]).int(), torch.empty(5, weight.shape[1])
    kernel.gather(ids, kernel.prepare(tensors), out)
    assert torch.equal(out, weight[ids.long()].float())


def test_a_checkpoint_of_whole_numbers_runs_as_it_is(tmp_path):
    """GPTQ's own numbers in the layers, groups of 128 kept, against the weights that they mean."""
    sizes, stored, meant = dict(hidden_size=128, intermediate_size=128, num_hidden_layers=1), {}, {}
    for name, values in tiny.random_weights(**sizes).items():
        if tiny.is_linear(name):
            parts, meant[name] = packings.gptq(size=128)(values)
            stored |= {f"{name.removesuffix('.weight')}.{end}": part for end, part in parts.items()}
        else:
            stored[name] = meant[name] = values
    config = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": False}
    source = tiny.write(tmp_path / "packed", stored, quantization_config=config, **sizes)
    decoder = load_model(source, KERNELS, max_rows=len(tiny.TOKENS), max_logit_rows=len(tiny.TOKENS))
    assert str(decoder.format) == "int4_zero"
    (found,) = Paged(decoder).step(Rows(0, tiny.TOKENS))
    expected = tiny.logits(tiny.write(tmp_path / "plain", meant, **sizes))
    assert (found - expected).norm() / expected.norm() < 0.01  # activations are rounded to bf16


def test_only_shared_scales_let_rows_be_gathered():
    assert not hasattr(KERNELS.linear("int8"), "gather") and not hasattr(KERNELS.linear("bf16"), "gather")


@pytest.mark.parametrize("format", ["int4_zero", "fp6", *(pytest.param(name, marks=pytest.mark.slow) for name in ("int4", "q4_k", "int8"))])
def test_a_row_has_the_same_bits_in_every_company(format, monkeypatch):
    """Few rows go in parts, many whole, in tiles of any number of rows."""
    kernel, tensors, weight = layer(format, 70, 1024)
    kernel = kernel.deterministic()
    x, bias, prepared = random(20, weight.shape[1], seed=4), random(70, seed=5), kernel.prepare(tensors)
    assert gemm.segments_of(prepared.form.n, prepared.form.k, packed.FINE)[0] == 2
    alone = {row: run(kernel, x[row : row + 1].clone(), prepared, bias)[0] for row in (0, 15, 16)}
    for whole_from, size, rows in ((264, 16, x), (1, 16, x.flip(0)), (1, 64, x)):
        monkeypatch.setattr(gemm, "WHOLE_FROM", whole_from)
        monkeypatch.setattr(packed, "BY_ROWS", ((1 << 31, packed.Tile(size, OUTPUTS, STEP)),))
        found = run(kernel, rows, prepared, bias)
        for row, expected in alone.items():
            assert equal_bits(found[row if rows is x else 19 - row], expected), (whole_from, size, row)


@pytest.mark.parametrize("format", ["int4", *(pytest.param(name, marks=pytest.mark.slow) for name in FOUR_BITS[2:]), "int4_zero"])
def test_rows_of_codes_against_what_they_mean(format):
    """Inputs that no step divides but where groups want it; fp32 and bf16 are made codes first, as norms would make them."""
    n, k, kernel = 100, fitting(format, 96), candidate.offer(linear_op(format, CODED), "cuda")
    tensors, x, bias = stored(format, n, k), random(3, k, seed=2) * 3, random(n, seed=3)
    prepared, weight = kernel.prepare(tensors), meaning(format, tensors)
    codes = fp8.coded(x.bfloat16())
    numbers, step = fp8.split(codes, k)
    seen, wide = numbers.double() * step.double(), torch.full((3, n + 9), 7.0)
    kernel.run(codes, prepared, bias, wide[:, 5 : 5 + n])
    error = (wide[:, 5 : 5 + n].double() - seen @ weight.T - bias).abs()
    assert (error <= 2e-6 * (seen.abs() @ weight.abs().T + bias.abs())).all()
    assert wide[:, :5].eq(7).all() and wide[:, 5 + n :].eq(7).all()
    if format == "int4":
        assert equal_bits(run(kernel.deterministic(), x, prepared, bias), wide[:, 5 : 5 + n]) and kernel.reads is codes.dtype
    reference, expected = Kernels(only="reference", activations=CODED).linear(format), torch.empty(3, n)
    reference.run(x, reference.prepare(dict(tensors)), bias, expected)
    torch.testing.assert_close(wide[:, 5 : 5 + n], expected, rtol=1e-5, atol=2e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("format", ["int4", "int4_zero"])
def test_a_row_of_codes_has_the_same_bits_in_every_company(format, monkeypatch):
    kernel, tensors = candidate.offer(linear_op(format, CODED), "cuda"), stored(format, 70, 1024)
    x, prepared = random(20, 1024, seed=4), kernel.prepare(tensors)
    alone = {row: run(kernel, x[row : row + 1].clone(), prepared)[0] for row in (0, 19)}
    monkeypatch.setattr(gemm, "WHOLE_FROM", 1)
    monkeypatch.setattr(packed, "BY_ROWS", ((1 << 31, packed.Tile(32, OUTPUTS, STEP)),))
    found = run(kernel, x, prepared)
    assert all(equal_bits(found[row], expected) for row, expected in alone.items())


class Coded(Interpreted):
    def linear(self, format):
        return candidate.offer(linear_op(format, CODED), "cuda")


def test_a_model_whose_activations_are_codes(tmp_path):
    """Norms write them for the layers that read them; beside the same weights and activations in the reference."""
    source = tiny.write(tmp_path, tiny.random_weights(hidden_size=96, num_hidden_layers=1), hidden_size=96, num_hidden_layers=1)
    sizes, found = dict(quant="int4", max_rows=len(tiny.TOKENS), max_logit_rows=len(tiny.TOKENS)), []
    for kernels in (Coded(), Kernels(only="reference", activations=CODED), Kernels(only="reference")):
        decoder = load_model(source, kernels, **sizes)
        assert (decoder._scratch.rows(1)["normed"].dtype is torch.float8_e4m3fn) == isinstance(kernels, Coded)
        found += Paged(decoder).step(Rows(0, tiny.TOKENS))
    ours, theirs, plain = found
    assert (ours - theirs).norm() / theirs.norm() < 0.02 < (plain - theirs).norm() / theirs.norm()


def test_rows_of_codes_take_four_bits():
    kernel, tensors, _ = layer("int8", 32, 128)
    with pytest.raises(InputError, match="rows in e4m3 take weights of 4 bits"):
        packed.product(fp8.coded(random(2, 128, seed=1)), kernel.prepare(tensors), None, torch.empty(2, 32))


def test_every_number_of_rows_has_a_tile():
    form = KERNELS.linear("int8").prepare(stored("int8", 3, 32)).form
    assert [packed.tile_of(form, rows).m for rows in (1, 16, 17, 64, 65, 100_000)] == [16, 16, 32, 64, 128, 128]
    assert all((tile.n, tile.k) == (OUTPUTS, STEP) for _, tile in packed.BY_ROWS), "another order of sums"


def test_what_does_not_fit_is_named():
    kernel, tensors, _ = layer("int4", 32, 64)
    prepared = kernel.prepare(tensors)
    with pytest.raises(InputError, match="x must be"):
        kernel.run(random(2, 96, seed=1), prepared, None, torch.empty(2, 32))
    with pytest.raises(InputError, match=r"out must be fp32 \[2, 32\]"):
        kernel.run(random(2, 64, seed=1), prepared, None, torch.empty(2, 33))
    with pytest.raises(InputError, match="bias must be"):
        kernel.run(random(2, 64, seed=1), prepared, random(31, seed=1), torch.empty(2, 32))
    with pytest.raises(InputError, match="needs exactly the tensors"):
        kernel.prepare({"weight": tensors["weight"]})
