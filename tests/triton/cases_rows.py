"""In the interpreter: norm, rope_write, gated, embed, move, rounds, linear against the reference, and that a row depends on itself only."""

import pytest
import test_rounds as rounds
import torch
import triton
from candidate import KERNELS
from scenes import equal_bits, random, stored
from test_row_invariance import BUILDERS

from slipstream.base.errors import InputError
from slipstream.model.batch import Batch
from slipstream.model.build import load_model
from slipstream.ops import KV, AttentionRows, Kernels, reference
from slipstream.ops.reference import cached
from slipstream.ops.types import SCALE_BYTES


def test_the_kernels_are_interpreted():
    assert triton.knobs.runtime.interpret


@pytest.mark.parametrize("hidden", [1, 64, 100, 1500])
@pytest.mark.parametrize("added", [False, True])
def test_norm(hidden, added):
    x, residual, weight = random(5, hidden, seed=1) * 3, random(5, hidden, seed=2), random(hidden, seed=3)
    want_x, want, got_x, got = x.clone(), torch.empty(5, hidden), x.clone(), torch.empty(5, hidden)
    reference.norm(want_x, weight, 1e-5, want, residual if added else None)
    KERNELS.norm(got_x, weight, 1e-5, got, residual if added else None)
    assert equal_bits(got_x, want_x)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=2e-6)


@pytest.mark.parametrize("heads, kv_heads, head_dim, page_size", [(4, 2, 24, 4), (3, 3, 16, 1), (8, 1, 64, 16), (6, 2, 2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_write(heads, kv_heads, head_dim, page_size, dtype):
    rows = 6
    qkv = random(rows, (heads + 2 * kv_heads) * head_dim, seed=1)
    table, positions = random(50, 2, head_dim // 2, seed=2), torch.tensor([0, 1, 49, 7, 7, 30]).int()
    slots = torch.tensor([5, 0, 23, 11, 1, 2]).int()
    results = []
    for op in (reference.rope_write, KERNELS.rope_write):
        part, kv = qkv.clone(), KV(*(torch.full((-(-24 // page_size), kv_heads, page_size, head_dim), 7.0, dtype=dtype) for _ in range(2)))
        op(part, positions, slots, table, kv, heads)
        results.append((part, kv.keys, kv.values))
    want, got = results
    torch.testing.assert_close(got[0], want[0], atol=1e-6, rtol=1e-6)
    assert equal_bits(got[2], want[2])
    torch.testing.assert_close(got[1], want[1], atol=1e-6, rtol=1e-6 if dtype is torch.float32 else 2**-7)
    written = got[0].view(rows, -1, head_dim)[:, heads : heads + kv_heads].to(dtype)
    assert equal_bits(got[1][slots.long() // page_size, :, slots.long() % page_size], written), "the cache holds what qkv holds, rounded"


@pytest.mark.parametrize("heads, kv_heads, head_dim, page_size", [(4, 2, 24, 4), (8, 1, 64, 16), (6, 2, 4, 5)])
def test_rope_write_in_e4m3(heads, kv_heads, head_dim, page_size):
    """Codes and scales of what qkv holds, to the bit, a head of zeros included; nothing else of the cache changes."""
    qkv, slots = random(4, (heads + 2 * kv_heads) * head_dim, seed=1) * 30, torch.tensor([5, 0, 18, 11]).int()
    qkv[2, -head_dim:] = 0
    table, positions = random(50, 2, head_dim // 2, seed=2), torch.tensor([0, 1, 49, 7]).int()
    shape = (-(-24 // page_size), kv_heads, page_size, head_dim + SCALE_BYTES)
    want, got = (KV(*(torch.full(shape, 99, dtype=torch.uint8).view(torch.float8_e4m3fn) for _ in range(2))) for _ in range(2))
    KERNELS.rope_write(qkv, positions, slots, table, got, heads)
    keys, values = qkv.view(4, -1, head_dim)[:, heads:].split(kv_heads, 1)
    for cache, part in ((want.keys, keys), (want.values, values)):
        cached.put(cache, slots.long() // page_size, slots.long() % page_size, part)
    assert equal_bits(got.keys, want.keys) and equal_bits(got.values, want.values)
    back, worth = cached.taken(got.values, slots.long() // page_size, slots.long() % page_size)
    torch.testing.assert_close(back * worth, values, atol=1e-3, rtol=2**-4)  # 4 bits of each number, fewer of the smallest
    assert not worth[2, -1].any()


def test_heads_that_e4m3_does_not_take_are_refused():
    kv = KV(*(torch.zeros(1, 1, 4, 6 + SCALE_BYTES, dtype=torch.float8_e4m3fn) for _ in range(2)))
    with pytest.raises(InputError, match="head_dim must be a multiple of 4"):
        KERNELS.rope_write(torch.zeros(1, 18), torch.zeros(1).int(), torch.zeros(1).int(), torch.zeros(1, 2, 3), kv, 1)


@pytest.mark.parametrize("width", [3, 160, 1501])
def test_gated(width):
    gate_up = random(4, 2 * width, seed=1) * 10
    gate_up[0, 0], gate_up[1, 1] = -200.0, 200.0
    want, got = torch.empty(4, width), torch.empty(4, width)
    reference.gated(gate_up, want)
    KERNELS.gated(gate_up, got)
    torch.testing.assert_close(got, want, atol=1e-30, rtol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden", [64, 1100])
def test_embed(dtype, hidden):
    table, ids, out = random(9, hidden, seed=1).to(dtype), torch.tensor([8, 0, 3, 3]).int(), torch.empty(4, hidden)
    KERNELS.embed(ids, table, out)
    assert equal_bits(out, table[ids].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_move_sees_what_earlier_pairs_wrote(dtype):
    pool = random(3, 2, 5, 2, 4, 24, seed=1).to(dtype)  # in e4m3 heads of 20, and scales of random bytes
    source, target = torch.tensor([5, 6, 7, 19, 3]).int(), torch.tensor([6, 7, 19, 3, 0]).int()
    want, got = pool.clone(), pool.clone()
    reference.move(want, source, target)
    KERNELS.move(got, source, target)
    assert equal_bits(got, want)
    KERNELS.move(got, source[:0], target[:0])
    assert equal_bits(got, want)


@pytest.mark.parametrize("format", ["fp32", "bf16"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(format, with_bias):
    n, k, rows = 100, 65, 3
    tensors, x, bias = stored(format, n, k), random(rows, k, seed=2), random(n, seed=3) if with_bias else None
    kernel, out = KERNELS.linear(format), torch.empty(rows, n)
    kernel.run(x, kernel.prepare(tensors), bias, out)
    weight = tensors["weight"].double()
    activation = x.double() if format == "fp32" else x.bfloat16().double()
    rounded = torch.empty_like(out)
    kernel.run(x.to(kernel.reads), kernel.prepare(tensors), bias, rounded)
    assert equal_bits(rounded, out), "what it rounds may come rounded"
    torch.testing.assert_close(out.double(), activation @ weight.T + (bias.double() if with_bias else 0.0), atol=1e-5, rtol=1e-5)
    assert kernel.name == f"triton_{format}"
    with pytest.raises(InputError, match="weight"):
        kernel.prepare({"weights": tensors["weight"]})


def test_what_does_not_fit_is_refused_by_name():
    x, weight = random(2, 8, seed=1), random(8, seed=2)
    for arguments, match in [
        ((x, weight[:7], 1e-5, x), r"weight must be a contiguous tensor \[8\]"),
        ((x.double(), weight, 1e-5, x), "x must be"),
        ((x, weight, 1e-5, random(8, 2, seed=3).t()), "not contiguous"),
        ((random(17, seed=1)[1:].view(2, 8), weight, 1e-5, x), "multiple of 16 bytes"),
    ]:
        with pytest.raises(InputError, match=match):
            KERNELS.norm(*arguments)
    with pytest.raises(InputError, match="table must be fp32 or bf16"):
        KERNELS.embed(torch.zeros(1).int(), torch.zeros(4, 8, dtype=torch.float16), torch.zeros(1, 8))


@pytest.mark.parametrize("op", ["norm", "layer_norm", "gated", "gated_gelu", "gated_clamped"])
def test_a_result_in_bf16_is_the_other_rounded(op):
    x, weight, bias = random(3, 300, seed=1) * 3, random(300, seed=2), random(300, seed=3)

    def made(dtype):
        out = torch.empty(3, 150 if op.startswith("gated") else 300, dtype=dtype)
        if op.startswith("gated"):
            getattr(KERNELS, op)(x, out, *((2.0, 1.7) if op == "gated_clamped" else ()))
        else:
            getattr(KERNELS, op)(x.clone(), weight, *((bias,) if op == "layer_norm" else ()), 1e-5, out)
        return out

    assert equal_bits(made(torch.bfloat16), made(torch.float32).bfloat16())


@pytest.mark.parametrize("op", ["embed", "norm", "rope_write", "gated", "sample", "logprobs"])
def test_a_row_has_the_same_bits_in_every_batch(op):
    compute = BUILDERS[op](KERNELS)
    alone = {row: compute([row]) for row in (0, 1, 2, 3, 4, 21, 39)}
    for index in ([39, 0], [4, 3, 2, 1, 0], [7, 21, 3, 3, 39, 1, 8, 0, 4]):
        for got, *want in zip(compute(index), *(alone.get(row, [None] * 9) for row in index), strict=False):
            for place, expected in enumerate(want):
                assert expected is None or equal_bits(got[place], expected[0]), f"{op}: rows {index}, place {place}"


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-5), (torch.bfloat16, 0.05)])
def test_a_decoder_runs_on_these_kernels(dtype, tolerance):
    """20 trunk rows of the tiny shape, all ops together, beside the reference's logits (which are up to 4 in size)."""
    count, results = 20, []
    positions = torch.arange(count, dtype=torch.int32)
    rows = AttentionRows(
        request=torch.zeros(count, dtype=torch.int32),
        positions=positions,
        linear=positions + 1,
        tail_start=torch.zeros(count + 1, dtype=torch.int32),
        tail_slots=torch.zeros(0, dtype=torch.int32),
        page_table=torch.tensor([[1, 2]], dtype=torch.int32),
    )
    for kernels in (Kernels(only="reference"), KERNELS):
        decoder = load_model("dummy:tiny", kernels, quant="fp32", max_rows=count, max_logit_rows=2)
        pool = torch.zeros(decoder.pool_shape(4, 16), dtype=dtype)
        hidden = decoder.forward(Batch(positions * 7, positions, positions + 16, rows), pool)
        results.append(decoder.logits(hidden, torch.tensor([19, 3], dtype=torch.int32)).clone())
    torch.testing.assert_close(results[1], results[0], atol=tolerance, rtol=0)


@pytest.mark.parametrize("each", [1, 3, 4])
def test_numbers_of_rounds(each):
    """Where rows lie and which guesses were right: whole numbers, so those of the reference; with requests that only fill a step up."""
    starts, seats, said = [6, -1, 0], [1, 0, 1], torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.int32)[:, :each]
    guesses = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 1, 1]], dtype=torch.int32)[:, : each - 1]
    found, wanted = (rounds.walked(kernels, said, guesses, starts) for kernels in (KERNELS, Kernels(only="reference")))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for passes, offset, tokens in ((1, 0, torch.arange(40, dtype=torch.int32).view(5, 8)), (3, -1, None)):
        found, wanted = (
            rounds.laid_out(kernels, [6, -1, 10], seats, each, passes, offset, tokens) for kernels in (KERNELS, Kernels(only="reference"))
        )
        assert torch.equal(found, wanted)
