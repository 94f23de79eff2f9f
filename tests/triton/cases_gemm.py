"""The product with one arithmetic for every number of rows, in the interpreter. Run by test_interpreted.py."""

import pytest
import torch

from slipstream.base.errors import InputError
from slipstream.ops.triton import gemm
from slipstream.ops.triton.gemm import Tile
from tests.ops.scenes import equal_bits, random

TILE = Tile(m=16, n=32, k=16)


def inputs(m: int, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return random(m, k, seed=1).bfloat16(), (random(n, k, seed=2) / k**0.5).bfloat16()


def multiply(x, weight, dtype=torch.float32, tile=TILE, **more) -> torch.Tensor:
    out = torch.full((len(x), len(weight)), torch.nan, dtype=dtype)
    gemm.matmul(x, weight, out, tile=tile, **more)
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("m, n, k", [(1, 32, 64), (17, 33, 200), (40, 100, 104), (3, 5, 7)])
def test_against_exact_sums(m, n, k, dtype):
    x, weight = inputs(m, n, k)
    wanted = x.double() @ weight.double().t()
    error = (multiply(x, weight, dtype).double() - wanted).norm() / wanted.norm()
    assert error < (2e-6 if dtype is torch.float32 else 4e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_tile(dtype):
    x, weight = (tensor.to(dtype) for tensor in inputs(5, 130, 520))
    assert torch.allclose(multiply(x, weight, tile=None), x.float() @ weight.float().t(), atol=1e-5)


def test_a_row_of_fp32_has_the_same_bits_in_every_company(monkeypatch):
    x, weight = random(40, 200, seed=1), random(70, 200, seed=2)
    alone = torch.cat([multiply(x[row : row + 1].clone(), weight, tile=None) for row in (0, 31, 39)])
    for fill in (gemm.WHOLE_FROM, 1):
        monkeypatch.setattr(gemm, "WHOLE_FROM", fill)
        assert equal_bits(multiply(x, weight, tile=None)[[0, 31, 39]], alone)


def test_segments_cover_k_in_whole_blocks():
    for n in (1, 128, 6144, 57344, 128256):
        for k in (1, 63, 64, 4096, 8192, 14336, 28672):
            count, length = gemm.segments_of(n, k)
            assert length % gemm.TILE.k == 0 and (count - 1) * length < k <= count * length and 1 <= count <= 16


def test_a_row_has_the_same_bits_in_every_company(monkeypatch):
    """Few rows go in parts, many whole; both ways, every place in a tile and both types must agree."""
    n, k = 70, 333
    x, weight = inputs(50, n, k)
    assert gemm.segments_of(n, k, TILE)[0] > 1
    alone = torch.cat([multiply(x[row : row + 1].clone(), weight) for row in range(50)])
    for count in (2, 15, 16, 17, 33, 50):
        assert gemm.scratch_size(count, n, k, TILE) > 0
        assert equal_bits(multiply(x[:count], weight), alone[:count])
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert equal_bits(multiply(x[order].contiguous(), weight), alone[order])
    narrow = multiply(x, weight, torch.bfloat16)
    monkeypatch.setattr(gemm, "WHOLE_FROM", 1)
    assert gemm.scratch_size(50, n, k, TILE) == 0
    for count in (1, 16, 50):
        assert equal_bits(multiply(x[:count], weight), alone[:count])
    assert equal_bits(multiply(x, weight, torch.bfloat16), narrow)


def test_tiles_of_few_and_many_rows_give_the_same_bits(monkeypatch):
    x, weight = inputs(66, 40, 200)
    assert [gemm.tile_of(m, x.dtype).m for m in (1, 64, 65)] == [64, 64, 128] and gemm.tile_of(65, torch.float32) == gemm.TILE_FP32
    assert len({(tile.n, tile.k) for _, tile in gemm.BY_ROWS}) == 1, "another order of sums"
    whole = multiply(x, weight, tile=None)
    assert equal_bits(whole[:3], multiply(x[:3].contiguous(), weight, tile=None))
    monkeypatch.setattr(gemm, "BY_ROWS", ((1 << 31, gemm.TILE),))
    assert equal_bits(whole, multiply(x, weight, tile=None))


def test_scratch_may_be_given_and_is_checked():
    x, weight = inputs(3, 40, 256)
    needed = gemm.scratch_size(3, 40, 256, TILE)
    scratch = torch.full((needed + 1,), torch.nan)
    assert equal_bits(multiply(x, weight, scratch=scratch), multiply(x, weight))
    assert scratch[:needed].isfinite().all() and scratch[needed].isnan()
    with pytest.raises(InputError, match="scratch"):
        multiply(x, weight, scratch=scratch[: needed - 1])


@pytest.mark.parametrize("name", ["x", "weight", "out"])
def test_tensors_that_do_not_fit_are_named(name):
    x, weight = inputs(4, 32, 64)
    tensors = {"x": x, "weight": weight, "out": torch.empty(4, 32)}
    tensors[name] = tensors[name].double()
    with pytest.raises(InputError, match=name):
        gemm.matmul(**tensors, tile=TILE)
