"""Products of e4m3 numbers in the interpreter, against the numbers that the codes mean. Run by test_interpreted.py."""

import pytest
import torch
from scenes import equal_bits, random

from slipstream.base.errors import InputError
from slipstream.ops.triton import fp8, gemm


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
    codes, scale = fp8.quantise(x, by_block)
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
    assert gemm.segments_of(40, 1024, fp8.TILE)[0] == 2
    alone = {row: multiply(x[row : row + 1].clone(), codes, scale, by_block)[0] for row in (0, 19)}
    for whole_from in (264, 1):
        monkeypatch.setattr(gemm, "WHOLE_FROM", whole_from)
        together = multiply(x, codes, scale, by_block)
        assert all(equal_bits(together[row], expected) for row, expected in alone.items()), whole_from


def test_what_does_not_fit_is_named():
    x, (codes, scale, _) = random(2, 256, seed=1), weights(8, 256, False)
    with pytest.raises(InputError, match="k=200"):
        fp8.quantise(x[:, :200].contiguous(), False)
    with pytest.raises(InputError, match="scale must be"):
        multiply(x, codes, scale[:7], False)
