"""What every op computes, against independent formulas in fp64. Holds for each candidate: the torch reference always,
the native kernels where they are built.
"""

import pytest
import torch

from slipstream.base.errors import InputError
from slipstream.ops import KV, Kernels, reference
from slipstream.ops.types import CODED, FOUR_BITS
from tests.ops.scenes import FORMATS, INTEGERS, WAYS, attend, build_scene, fitting, meaning, random, rounded_rows, stored


def dense(scene, window: int = 0, scale: float = 0.25) -> torch.Tensor:
    """The textbook formula in fp64, row by row."""
    kv_heads, head_dim = scene.kv.keys.shape[1], scene.kv.keys.shape[3]
    out = []
    for q, keys, values in zip(scene.qkv, scene.keys, scene.values, strict=True):
        start = max(0, len(keys) - window) if window else 0
        group = scene.heads // kv_heads
        k = keys[start:].double().repeat_interleave(group, 1)  # [n, heads, head_dim]
        v = values[start:].double().repeat_interleave(group, 1)
        scores = torch.einsum("hd,nhd->hn", q[: scene.heads * head_dim].view(-1, head_dim).double(), k) * scale
        out.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), v).flatten())
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kv_heads, group, head_dim", [(1, 1, 16), (2, 3, 8), (4, 2, 32), (1, 4, 20)])
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("window", [0, 1, 10, 600])
def test_attention_is_softmax_attention(kernels, dtype, kv_heads, group, head_dim, page_size, window):
    rows = [(0, p, 0) for p in range(4)] + [(1, 70, 0), (1, 74, 5), (1, 72, 2), (2, 511, 0), (2, 512, 0), (3, 1500, 11), (4, 6, 7)]
    made = build_scene(rows, dtype=dtype, kv_heads=kv_heads, group=group, head_dim=head_dim, page_size=page_size)
    torch.testing.assert_close(attend(kernels, made, window).double(), dense(made, window), atol=2e-6, rtol=2e-5)


def test_attention_survives_great_scores(kernels):
    made = build_scene([(0, 1200, 0), (0, 3, 0)])
    torch.testing.assert_close(attend(kernels, made, scale=40.0).double(), dense(made, scale=40.0), atol=2e-4, rtol=2e-4)


# --- what the other ops compute -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embed_copies_rows(kernels, dtype):
    table, ids = random(10, 48, seed=0).to(dtype), torch.tensor([9, 0, 0, 4], dtype=torch.int32)
    out = torch.empty(4, 48)
    kernels.embed(ids, table, out)
    assert torch.equal(out, table.float()[[9, 0, 0, 4]])


@pytest.mark.parametrize("hidden", [8, 100, 256])
def test_norm(kernels, hidden):
    x, residual, weight, out = random(3, hidden, seed=0) * 5, random(3, hidden, seed=1), random(hidden, seed=2), torch.empty(3, hidden)
    before, summed = x.clone(), x + residual
    kernels.norm(x, weight, 1e-5, out)
    want = before.double() / (before.double().square().mean(1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(out.double(), want, atol=1e-6, rtol=1e-6)
    assert torch.equal(x, before)
    kernels.norm(x, weight, 1e-5, out, residual)
    want = summed.double() / (summed.double().square().mean(1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(out.double(), want, atol=1e-6, rtol=1e-6)
    assert torch.equal(x, summed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rope_write_turns_pairs_and_fills_the_cache(kernels, dtype):
    heads, kv_heads, head_dim, page_size = 4, 2, 16, 4
    rows = [3, 0, 11]
    qkv = random(3, (heads + 2 * kv_heads) * head_dim, seed=0)
    angle = torch.arange(12, dtype=torch.float64)[:, None] * 0.3 ** torch.arange(head_dim // 2, dtype=torch.float64)
    table = torch.stack([angle.cos(), angle.sin()], 1).float()
    kv = KV(*(torch.full((4, kv_heads, page_size, head_dim), 7.0, dtype=dtype) for _ in range(2)))
    before, slots = qkv.clone().double().view(3, -1, head_dim), torch.tensor([5, 15, 2], dtype=torch.int32)
    kernels.rope_write(qkv, torch.tensor(rows, dtype=torch.int32), slots, table, kv, heads)
    factor = torch.polar(torch.ones_like(angle), angle)[rows][:, None]  # [rows, 1, head_dim / 2]
    turned = torch.complex(before[..., : head_dim // 2], before[..., head_dim // 2 :]) * factor
    want = torch.cat([turned.real, turned.imag], -1)
    want[:, heads + kv_heads :] = before[:, heads + kv_heads :]  # values are not turned
    got = qkv.view(3, -1, head_dim)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-6)
    for row, slot in enumerate(slots.tolist()):
        assert torch.equal(kv.keys[slot // page_size, :, slot % page_size], got[row, heads : heads + kv_heads].to(dtype))
        assert torch.equal(kv.values[slot // page_size, :, slot % page_size], got[row, heads + kv_heads :].to(dtype))
    assert (kv.keys == 7).sum() == kv.keys.numel() - 3 * kv_heads * head_dim, "other slots are untouched"


def test_bf16_cache_rounds_to_nearest_even(kernels):
    ones = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8])  # two ties, one just above, one negative tie
    qkv, kv = ones.repeat(3).view(1, 12), KV(*(torch.zeros(1, 1, 1, 4, dtype=torch.bfloat16) for _ in range(2)))
    table = torch.tensor([1.0, 1.0, 0.0, 0.0]).view(1, 2, 2)
    zero = torch.zeros(1, dtype=torch.int32)
    kernels.rope_write(qkv, zero, zero, table, kv, 1)
    want = [1.0, 1 + 2**-6, 1 + 2**-7, -1.0]
    assert kv.values.flatten().tolist() == want and kv.keys.flatten().tolist() == want


def test_gated(kernels):
    gate_up = random(3, 2 * 37, seed=0) * 6
    gate_up[0, :4] = torch.tensor([0.0, 100.0, -100.0, -87.0])
    out = torch.empty(3, 37)
    kernels.gated(gate_up, out)
    gate, up = gate_up.double().chunk(2, 1)
    torch.testing.assert_close(out.double(), gate * gate.sigmoid() * up, atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("format, activations", WAYS)
@pytest.mark.parametrize("n, k", [(32, 32), (40, 100), (7, 33), (1030, 64)])
def test_linear(kernels, format, activations, n, k):
    k = fitting(format, k)
    kernel, tensors = Kernels(only=kernels.choices()[0].chosen, activations=activations).linear(format), stored(format, n, k)
    prepared, bias, weight = kernel.prepare(dict(tensors)), random(n, seed=3), meaning(format, tensors)
    for rows in (1, 5, 16, 19):
        x, out = random(rows, k, seed=rows) * 3, torch.empty(rows, n)
        seen = rounded_rows(x, activations) if format in INTEGERS else x.double()
        kernel.run(x, prepared, bias, out)
        torch.testing.assert_close(out.double(), seen @ weight.T + bias, atol=1e-5, rtol=1e-5)
        kernel.run(x, prepared, None, out)
        torch.testing.assert_close(out.double(), seen @ weight.T, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("format, n, k", [("fp8", 40, 100), ("fp8_block", 7, 256)])
def test_linear_of_8_bit_floats(format, n, k):
    """Activations go through bf16 to e4m3; their scale is the greatest size of the row, or of 128 of its inputs, over 448."""
    kernel, tensors, bias = Kernels(only="reference").linear(format), stored(format, n, k), random(n, seed=3)
    prepared, weight, size = kernel.prepare(dict(tensors)), meaning(format, tensors), k if format == "fp8" else 128
    x = torch.cat([random(17, k, seed=1) * 3, torch.zeros(1, k)])
    parts = x.bfloat16().float().unflatten(1, (-1, size))
    step = parts.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    seen = ((parts / step).to(torch.float8_e4m3fn).double() * step.double()).flatten(1)
    found, alone = torch.empty(18, n), torch.empty(1, n)
    kernel.run(x, prepared, bias, found)
    assert ((found - seen @ weight.T - bias).abs() <= 2e-6 * (seen.abs() @ weight.abs().T + bias.abs())).all()
    for row in (0, 16, 17):
        kernel.run(x[row : row + 1], prepared, bias, alone)
        assert torch.equal(alone[0], found[row])


@pytest.mark.parametrize("format", FOUR_BITS)
def test_linear_of_four_bits_and_activations_in_e4m3(format):
    """A scale per row, the greatest size over 448; a group's sum is exact before it is scaled."""
    n, k = 40, fitting(format, 96)
    kernel, tensors, bias = Kernels(only="reference", activations=CODED).linear(format), stored(format, n, k), random(n, seed=3)
    x, found, alone = torch.cat([random(17, k, seed=1) * 3, torch.zeros(1, k)]), torch.empty(18, n), torch.empty(1, n)
    narrow, weight, prepared = x.bfloat16().float(), meaning(format, tensors), kernel.prepare(dict(tensors))
    step = narrow.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    seen = (narrow / step).to(torch.float8_e4m3fn).double() * step.double()
    kernel.run(x, prepared, bias, found)
    assert ((found - seen @ weight.T - bias).abs() <= 2e-6 * (seen.abs() @ weight.abs().T + bias.abs())).all()
    for row in (0, 16, 17):
        kernel.run(x[row : row + 1], prepared, bias, alone)
        assert torch.equal(alone[0], found[row])


def test_six_bits_are_multiplied_as_they_are():
    kernel, tensors, bias, x = Kernels(only="reference").linear("fp6"), stored("fp6", 40, 192), random(40, seed=3), random(5, 192, seed=1)
    found = torch.empty(5, 40)
    kernel.run(x, kernel.prepare(tensors), bias, found)
    torch.testing.assert_close(found.double(), x.double() @ meaning("fp6", tensors).T + bias, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="160 inputs are no multiple of the 64 that lie together"):
        kernel.prepare({"weight": tensors["weight"][:, :80], "upper": tensors["upper"][:, :40], "scale": tensors["scale"]})


def test_int8_ties_go_to_even_and_an_empty_block_is_zero(kernels):
    x = torch.zeros(1, 64)
    x[0, :5] = torch.tensor([127.0, 0.5, 1.5, 2.5, -2.5])
    kernel, eye = kernels.linear("int8"), torch.eye(64, dtype=torch.int8)
    out = torch.empty(1, 64)
    kernel.run(x, kernel.prepare({"weight": eye, "scale": torch.ones(64)}), None, out)
    assert out[0, :5].tolist() == [127.0, 0.0, 2.0, 2.0, -2.0] and not out[0, 5:].any()


def test_move_copies_in_order(kernels):
    pool = random(2, 2, 3, 2, 4, 8, seed=0).bfloat16()
    before = pool.clone()
    kernels.move(pool, torch.tensor([1, 6, 11], dtype=torch.int32), torch.tensor([6, 11, 0], dtype=torch.int32))
    slots, old = (tensor.transpose(3, 4).flatten(2, 3) for tensor in (pool, before))  # [layers, 2, slots, kv_heads, head_dim]
    assert all(torch.equal(slots[:, :, slot], old[:, :, 1]) for slot in (6, 11, 0)), "each pair sees what the one before wrote"
    untouched = [slot for slot in range(12) if slot not in (6, 11, 0)]
    assert torch.equal(slots[:, :, untouched], old[:, :, untouched])


@pytest.mark.parametrize("vocab", [5, 32, 1003])
def test_logprobs(kernels, vocab):
    logits = torch.round(random(6, vocab, seed=vocab) * 4) / 2  # many equal ones
    tokens = torch.tensor([0, vocab - 1, 2, 3, 4, 1], dtype=torch.int32)
    top = min(7, vocab)
    logprob, rank, ids, values = kernels.logprobs(logits, tokens, top)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(logprob.double(), exact.gather(1, tokens.long()[:, None])[:, 0], atol=1e-5, rtol=1e-6)
    for row in range(6):
        order = sorted(range(vocab), key=lambda token: (-logits[row, token].item(), token))
        assert ids[row].tolist() == order[:top] and rank[row] == 1 + order.index(tokens[row])
        torch.testing.assert_close(values[row].double(), exact[row, order[:top]], atol=1e-5, rtol=1e-6)
    assert [t.dtype for t in (logprob, rank, ids, values)] == [torch.float32, torch.int32, torch.int32, torch.float32]
    assert kernels.logprobs(logits, tokens, 0)[2].shape == (6, 0)


@pytest.mark.parametrize("format", FORMATS)
def test_a_wrongly_typed_weight_is_refused(format):
    kernel, tensors = reference.OFFERED[f"linear_{format}"], stored(format, 8, fitting(format, 32))
    with pytest.raises(ValueError, match="float64"):
        kernel.prepare({**tensors, "weight": tensors["weight"].double()})
    with pytest.raises(ValueError, match="needs exactly the tensors"):
        kernel.prepare({**tensors, "zero": torch.zeros(8)})
