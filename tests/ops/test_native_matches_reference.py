"""The native kernels against the torch reference, op by op, with bounds that follow from the arithmetic.

`U` is the unit roundoff of fp32. A sum of n products in some order is off by at most about sqrt(n) * U times the sum of
their magnitudes, with a factor of 4 for all but one case in thousands (Higham and Mary 2019); both sides have that error.
"""

import math

import pytest
import torch

from slipstream.base import native
from slipstream.ops import KV, Kernels, SampleRows
from slipstream.ops.reference import arithmetic, sampling
from slipstream.ops.types import SCALE_BYTES
from tests.ops.scenes import INTEGERS, WAYS, attend, build_scene, draw, equal_bits, fitting, random, sample_rows, stored

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
U = 2.0**-24


@pytest.fixture(scope="module")
def pair() -> tuple[Kernels, Kernels]:
    return Kernels(only="cpu"), Kernels(only="reference")


def both(pair, run) -> tuple[torch.Tensor, torch.Tensor]:
    """What `run(kernels)` returns on the native side and on the reference side."""
    return tuple(run(kernels) for kernels in pair)


def assert_within(got: torch.Tensor, want: torch.Tensor, bound: torch.Tensor | float) -> None:
    excess = ((got.double() - want.double()).abs() / torch.as_tensor(bound).double().clamp_min(1e-45)).max()
    assert excess <= 1, f"off by {excess:.3g} times the bound"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embed_to_the_bit(pair, dtype):
    table, ids = random(31, 72, seed=0).to(dtype), torch.tensor([30, 0, 7, 7], dtype=torch.int32)

    def run(kernels):
        out = torch.empty(4, 72)
        kernels.embed(ids, table, out)
        return out

    assert equal_bits(*both(pair, run))


@pytest.mark.parametrize("hidden", [48, 100, 4096])
def test_norm(pair, hidden):
    x, residual, weight = random(5, hidden, seed=0), random(5, hidden, seed=1), random(hidden, seed=2)
    summed = []

    def run(kernels):
        out = torch.empty(5, hidden)
        summed.append(x.clone())
        kernels.norm(summed[-1], weight, 1e-5, out, residual)
        return out

    got, want = both(pair, run)
    assert equal_bits(*summed)
    # the mean of squares: hidden / 16 additions per lane, halved by the root; then seven roundings in a row
    assert_within(got, want, want.abs() * U * (2 * math.sqrt(hidden / 16) + 7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("head_dim", [16, 20, 64])
def test_rope_write_to_the_bit(pair, dtype, head_dim):
    """Both sides do one rounded product and one fused product-sum per value."""
    heads, kv_heads, row = 4, 2, head_dim + (SCALE_BYTES if dtype is torch.int8 else 0)
    qkv, table = random(6, (heads + 2 * kv_heads) * head_dim, seed=0), random(40, 2, head_dim // 2, seed=1)
    positions, slots = torch.tensor([0, 39, 7, 8, 9, 1], dtype=torch.int32), torch.tensor([3, 0, 22, 5, 6, 7], dtype=torch.int32)

    def run(kernels):
        part, kv = qkv.clone(), KV(*(torch.zeros(3, kv_heads, 8, row, dtype=dtype) for _ in range(2)))
        kernels.rope_write(part, positions, slots, table, kv, heads)
        return torch.cat([part.flatten(), kv.keys.float().flatten(), kv.values.float().flatten()])

    assert equal_bits(*both(pair, run))


def test_gated(pair):
    gate_up = random(5, 2 * 77, seed=0) * 10

    def run(kernels):
        out = torch.empty(5, 77)
        kernels.gated(gate_up, out)
        return out

    got, want = both(pair, run)
    assert_within(got, want, want.abs() * 10 * U + 1e-37)  # exp to 2 ulp (4 U) and three roundings on each side; subnormals aside


@pytest.mark.parametrize("which, exact", [(0, torch.exp), (1, torch.log)])
def test_exp_and_log(which, exact):
    """2 ulp (4 U) everywhere, which the bounds of the other tests count on."""
    x = torch.linspace(-87, 88, 1 << 17)
    x = x if which == 0 else arithmetic.exp(x[x > -86])
    x = x[: len(x) // 16 * 16].contiguous()
    out = torch.empty_like(x)
    native.module.elementary(which, x.data_ptr(), out.data_ptr(), len(x))
    want = exact(x.double())
    assert_within(out, want, want.abs() * 4 * U)


@pytest.mark.parametrize("n, k", [(32, 32), (40, 100), (7, 33), (300, 1500)])
@pytest.mark.parametrize("format, activations", WAYS)
def test_linear(format, activations, n, k):
    pair = [Kernels(only=only, activations=activations) for only in ("cpu", "reference")]
    k = fitting(format, k)
    tensors, x, bias = stored(format, n, k), random(19, k, seed=1), random(n, seed=2)

    def run(kernels):
        kernel, out = kernels.linear(format), torch.empty(19, n)
        kernel.run(x, kernel.prepare(dict(tensors)), bias, out)
        return out

    got, want = both(pair, run)
    if format in INTEGERS:  # integers are exact, and both sides take the blocks in the same order with one rounding each
        assert equal_bits(got, want)
    else:
        assert_within(got, want, 2 * 4 * math.sqrt(k) * U * (x.abs() @ tensors["weight"].float().abs().T + bias.abs()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("kv_heads, group, head_dim", [(2, 2, 16), (1, 3, 20), (4, 1, 64)])
@pytest.mark.parametrize("window", [0, 33, 700])
def test_attention(pair, dtype, kv_heads, group, head_dim, window):
    rows = [(0, 0, 0), (0, 17, 0), (1, 511, 4), (1, 512, 0), (2, 1300, 9), (3, 5, 6)]
    made = build_scene(rows, dtype=dtype, kv_heads=kv_heads, group=group, head_dim=head_dim)
    got, want = both(pair, lambda kernels: attend(kernels, made, window))
    width = made.heads * head_dim
    for row in range(len(rows)):
        longest = made.keys[row].float().norm(dim=-1).max() * made.qkv[row, :width].view(-1, head_dim).norm(dim=-1).max()
        score = 4 * math.sqrt(head_dim) * U * 0.25 * longest  # error of a score = relative error of a weight
        keys = len(made.keys[row])
        assert_within(got[row], want[row], 2 * (2 * score + (8 + 4 * math.sqrt(min(keys, 512))) * U) * made.values[row].float().abs().max())


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize("position, sample", [(0, 0), (1, 127), (2**31 - 1, 3)])
def test_noise_words_to_the_bit(seed, position, sample):
    words = torch.empty(320, dtype=torch.int32)
    native.module.noise(words.data_ptr(), 320, seed, position, sample, True)
    assert torch.equal(words.long() & 0xFFFFFFFF, sampling.noise_words(seed, sample, position, 320))


def test_noise_values():
    noise = torch.empty(64 * 1024)
    native.module.noise(noise.data_ptr(), len(noise), 77, 5, 0, False)
    want = sampling.gumbel(77, 0, 5, len(noise))
    # g = -log(E) with E good to 12 U: off by that much in absolute terms, and by 2 ulp of its own
    assert_within(noise, want, 12 * U + 6 * U * want.abs())


def test_sampled_ids_agree_unless_two_are_as_good_as_equal(pair):
    rows, vocab = 200, 2003
    logits = random(rows, vocab, seed=3) * 3
    choice = torch.arange(rows) % 6
    generator = torch.Generator().manual_seed(4)
    made = sample_rows(
        rows,
        temperature=torch.where(choice == 0, 0.0, torch.where(choice == 1, 0.5, 1.1)),
        top_k=torch.where((choice == 2) | (choice == 5), 40, 0),
        top_p=torch.where((choice == 3) | (choice == 5), 0.9, 1.0),
        min_p=torch.where((choice == 4) | (choice == 5), 0.02, 0.0),
        seed=torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator),
        sample=choice,
    )
    got, want = both(pair, lambda kernels: draw(kernels, logits, made))
    excused = [row for row in (got != want).nonzero()[:, 0].tolist() if margin(logits[row], made, row) < 1e-5]
    assert (got != want).nonzero()[:, 0].tolist() == excused and len(excused) <= 1


def margin(logits: torch.Tensor, rows: SampleRows, row: int) -> float:
    """How far the winner of a row is ahead of the second in the reference."""
    z = logits / rows.temperature[row] if rows.temperature[row] else logits
    keep = sampling.kept(z, int(rows.top_k[row]), float(rows.top_p[row]), float(rows.min_p[row]))
    noise = sampling.gumbel(int(rows.seed[row]), int(rows.sample[row]), int(rows.position[row]), len(z))
    first, second = (z + noise).masked_fill(~keep, -math.inf).topk(2).values.tolist()
    return first - second


@pytest.mark.parametrize("vocab", [7, 64, 5003])
def test_logprobs(pair, vocab):
    logits = torch.round(random(9, vocab, seed=vocab) * 16) / 8  # with equal ones
    tokens = torch.arange(9, dtype=torch.int32) * 5 % vocab
    got, want = (kernels.logprobs(logits, tokens, 6) for kernels in pair)
    assert torch.equal(got[1], want[1]) and torch.equal(got[2], want[2]), "ranks and ids"
    for a, b in ((got[0], want[0]), (got[3], want[3])):
        # the log of a sum of vocab / 16 additions per lane, exp to 4 U, log to 4 U; then two roundings of the value
        assert_within(a, b, U * (4 * math.sqrt(vocab / 16) + 16 + 4 * b.abs()))


def test_move_to_the_bit(pair):
    pool = random(2, 2, 3, 2, 4, 8, seed=0).bfloat16()
    source, target = torch.tensor([1, 6, 11], dtype=torch.int32), torch.tensor([6, 11, 0], dtype=torch.int32)

    def run(kernels):
        moved = pool.clone()
        kernels.move(moved, source, target)
        return moved

    assert equal_bits(*both(pair, run))
