"""Products of e4m3 numbers in the interpreter, against the numbers that the codes mean. Run by test_interpreted.py."""

import importlib

import pytest
import torch
from candidate import KERNELS
from scenes import equal_bits, random, stored

from slipstream.base.errors import InputError
from slipstream.cost import LINEAR_ARITHMETIC
from slipstream.model import load_model
from slipstream.ops import Kernels
from slipstream.ops.triton import fp8, gemm
from slipstream.ops.types import CODES_ROOM
from tests.model.paged import Paged, Rows
from tests.quant import packings
from tests.weights import tiny

FORMATS = ("fp8", "fp8_block")
load = importlib.import_module("slipstream.weights.load")  # the module; its package has a function of that name


def weights(n: int, k: int, by_block: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(codes, scales, what they mean in fp64); scales differ by a factor of a thousand."""
    plain = random(n, k, seed=2)
    codes = plain.to(torch.float8_e4m3fn)
    scale = 2 ** (random(-(-n // 128), k // 128, seed=3) * 3) if by_block else 2 ** (random(n, 1, seed=3) * 3)
    wide = scale.repeat_interleave(128, 0)[:n].repeat_interleave(128, 1) if by_block else scale
    return codes, scale, codes.double() * wide.double()


def multiply(x, codes, scale, by_block):
    out = torch.full((len(x), len(codes)), torch.nan)
    fp8.product(*fp8.quantise(x, by_block), codes, scale, out)
    return out


@pytest.mark.parametrize("by_block", [False, True])
def test_rows_are_quantised_as_torch_would(by_block):
    x = torch.cat([random(3, 256, seed=1) * 2 ** (random(3, 256, seed=4) * 4), torch.zeros(1, 256), torch.full((1, 256), 448.0)])
    codes, scale = fp8.quantise(x.bfloat16(), by_block)
    again, same = fp8.quantise(x, by_block)
    assert torch.equal(codes.view(torch.uint8), again.view(torch.uint8)) and equal_bits(scale, same), "fp32 is rounded to bf16 first"
    x = x.bfloat16().float()
    groups = x.view(5, -1, 128) if by_block else x[:, None]
    step = groups.abs().amax(-1).clamp(min=1e-12) / 448
    assert equal_bits(scale, step)
    assert torch.equal(codes.float(), (groups / step[..., None]).clamp(-448, 448).flatten(1).to(torch.float8_e4m3fn).float())


@pytest.mark.parametrize("by_block", [False, True])
def test_against_what_the_codes_mean(by_block):
    x, (codes, scale, meant) = random(3, 256, seed=1), weights(150, 256, by_block)
    rounded, step = fp8.quantise(x, by_block)
    exact = rounded.double() * (step.repeat_interleave(128, 1) if by_block else step).double()
    error = (multiply(x, codes, scale, by_block).double() - exact @ meant.T).abs()
    assert (error <= 2e-6 * (exact.abs() @ meant.abs().T)).all()


@pytest.mark.parametrize("by_block", [False, True])
def test_a_row_has_the_same_bits_in_every_company(by_block, monkeypatch):
    x, (codes, scale, _) = random(20, 1024, seed=1), weights(40, 1024, by_block)
    assert gemm.segments_of(40, 1024, fp8.tile_of(1, 40, 1024))[0] == 2
    assert [fp8.tile_of(m, 4096, 4096).m for m in (64, 65, 1024, 1025)] == [64, 128, 128, 64]
    assert len({(tile.n, tile.k) for _, tile in fp8.BY_ROWS}) == 1, "another order of sums"
    alone = {row: multiply(x[row : row + 1].clone(), codes, scale, by_block)[0] for row in (0, 19)}
    for whole_from, tiles in ((264, fp8.BY_ROWS), (1, fp8.BY_ROWS), (264, fp8.BY_ROWS[1:])):
        monkeypatch.setattr(gemm, "WHOLE_FROM", whole_from)
        monkeypatch.setattr(fp8, "BY_ROWS", tiles)
        together = multiply(x, codes, scale, by_block)
        assert all(equal_bits(together[row], expected) for row, expected in alone.items()), whole_from


@pytest.mark.parametrize("centred", [False, True])
def test_a_norm_writes_the_codes_of_what_it_would_write(centred):
    x, residual, weight, bias = (random(*shape, seed=5) for shape in ((3, 256), (3, 256), (256,), (256,)))
    norm, more = (KERNELS.layer_norm, (bias,)) if centred else (KERNELS.norm, ())
    narrow, codes = torch.empty(3, 256, dtype=torch.bfloat16), torch.empty(3, 256 + CODES_ROOM, dtype=torch.float8_e4m3fn)
    for out in (narrow, codes):
        norm(x.clone(), weight, *more, 1e-5, out, residual)
    for found, expected in zip(fp8.split(codes, 256), fp8.quantise(narrow, False), strict=True):
        assert equal_bits(found, expected)
    kernel, tensors = KERNELS.linear("fp8"), stored("fp8", 24, 256)
    prepared = kernel.prepare(tensors)
    assert kernel.reads is codes.dtype and equal_bits(run(kernel, codes, prepared, None, 24), run(kernel, narrow, prepared, None, 24))


def run(kernel, x, prepared, bias, n):
    out = torch.full((len(x), n + 8), torch.nan)
    kernel.run(x, prepared, bias, out[:, :n])
    assert out[:, n:].isnan().all()
    return out[:, :n].clone()


@pytest.mark.parametrize("format", FORMATS)
def test_the_layer_beside_the_reference(format, monkeypatch):
    """Scales of single rows here; by whole blocks, which are told from the numbers, the same bits. For many rows torch multiplies."""
    n, k, x, bias = 144, 256, random(3, 256, seed=1).bfloat16(), random(144, seed=2)
    tensors, kernel, reference = stored(format, n, k), KERNELS.linear(format), Kernels(only="reference").linear(format)
    expected = torch.empty(3, n)
    reference.run(x.float(), reference.prepare(tensors), bias, expected)
    prepared = kernel.prepare(tensors)
    found = run(kernel, x, prepared, bias, n)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))
    assert equal_bits(run(kernel.deterministic(), x.float(), prepared, bias, n), found)
    monkeypatch.setattr(fp8, "fast", lambda rows: fp8.TORCH)
    assert equal_bits(run(kernel.deterministic(), x, prepared, bias, n), found), "deterministic settings take the own product always"
    if format == "fp8":
        by_torch = run(kernel, x, prepared, bias, n)
        torch.testing.assert_close(by_torch, expected, rtol=2e-6, atol=2e-6 * float(expected.abs().max()))
        whole = torch.empty(3, n)
        kernel.run(x, prepared, bias, whole)
        assert equal_bits(whole, by_torch)
    else:
        assert prepared.scale.shape == (n, 2)
        tensors["scale"] = tensors["scale"][[0, 128]].repeat_interleave(128, 0)[:n]
        compact = kernel.prepare(tensors)
        assert compact.scale.shape == (2, 2)
        spread = fp8.Packed(compact.codes, tensors["scale"].contiguous(), compact.one, compact.arrived)
        assert equal_bits(run(kernel.deterministic(), x, compact, None, n), run(kernel.deterministic(), x, spread, None, n))


@pytest.mark.parametrize("way", ["quant", pytest.param("channel", marks=pytest.mark.slow), "block"])
def test_a_model_of_8_bit_floats(tmp_path, way, monkeypatch):
    """Rounded when loaded, or from a checkpoint whose codes stay as they are, against the weights that they mean."""
    hidden, taken = 256 if way == "block" else 128, load.taken
    sizes, given, meant = dict(hidden_size=hidden, intermediate_size=128, num_hidden_layers=1), {}, {}
    for name, values in tiny.random_weights(**sizes).items():
        if tiny.is_linear(name) and way != "quant":
            parts, meant[name] = packings.fp8(way)(values)
            given |= {f"{name.removesuffix('.weight')}.{end}": part for end, part in parts.items()}
        else:
            given[name] = meant[name] = values
    config = {"quant_method": "fp8"} | ({"weight_block_size": [128, 128]} if way == "block" else {})
    more = sizes if way == "quant" else sizes | {"quantization_config": config}
    for format in FORMATS:
        monkeypatch.setitem(LINEAR_ARITHMETIC["cpu"], format, "fp8")  # as on a GPU
    monkeypatch.setattr(load, "taken", lambda stored, place: taken(stored, place).clone())  # and copied, so that addresses are aligned
    quant, format = ("fp8", "fp8") if way == "quant" else (None, "fp8_block" if way == "block" else "fp8")
    source = tiny.write(tmp_path / "narrow", given, **more)
    decoder = load_model(source, KERNELS, quant=quant, max_rows=len(tiny.TOKENS), max_logit_rows=len(tiny.TOKENS))
    assert str(decoder.format) == format
    assert decoder._scratch.rows(1)["normed"].dtype is (torch.bfloat16 if way == "block" else torch.float8_e4m3fn)
    assert decoder._scratch.rows(1)["gated"].dtype is torch.bfloat16
    (found,) = Paged(decoder).step(Rows(0, tiny.TOKENS))
    expected = tiny.logits(tiny.write(tmp_path / "plain", meant, **sizes))
    assert 0 < (found - expected).norm() / expected.norm() < 0.1


def test_what_does_not_fit_is_named():
    x, (codes, scale, _) = random(2, 256, seed=1), weights(8, 256, False)
    with pytest.raises(InputError, match="k=200"):
        fp8.quantise(x[:, :200].contiguous(), False)
    with pytest.raises(InputError, match="scale must be"):
        multiply(x, codes, scale[:7], False)
