"""The C++ kernels: the same bits from every instruction set, row count, position in the batch and thread count; right against fp64."""

import os
import threading

import numpy as np
import pytest
import torch

from slipstream.base import native
from slipstream.base.errors import InputError
from slipstream.ops.types import KV, AttentionRows, Declined, SampleRows
from tests.ops.scenes import FORMATS, INTEGERS, WAYS, attend, build_scene, fitting, meaning, rounded_rows, stored

if native.module is None:
    pytest.skip(f"no native module: {native.reason}", allow_module_level=True)

from slipstream.ops import Kernels, cpu, reference  # noqa: E402

N = native.module


@pytest.fixture(autouse=True)
def _restore():
    threads = N.threads()
    yield
    N.force_isa(N.isas()[0])
    N.set_threads(threads)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def integers(values) -> torch.Tensor:
    return torch.as_tensor(values, dtype=torch.int32)


def same_everywhere(make):
    """The result of make(), after asserting that every instruction set and thread count gives the same bits."""
    results = []
    for isa in N.isas():
        N.force_isa(isa)
        for threads in (1, 2, 3):
            N.set_threads(threads)
            results.append((isa, threads, make()))
    for isa, threads, result in results:
        for got, want in zip(result, results[0][2], strict=True):
            assert torch.equal(got.view(torch.uint8), want.view(torch.uint8)), f"{isa} with {threads} threads differs from {results[0][:2]}"
    return results[0][2]


@pytest.mark.parametrize("format, activations", WAYS)
@pytest.mark.parametrize("n, k", [(1, 1), (32, 32), (70, 97), (45, 2050), (300, 64)])
def test_linear_is_right_and_the_same_everywhere(format, activations, n, k):
    rows = 41 if n * k < 30_000 else 13
    k = fitting(format, k)
    kernel, tensors, bias, x = cpu.Linear(format, activations), stored(format, n, k), random(n), random(rows, k, seed=1)
    weight = meaning(format, tensors)
    x[0] *= 0
    x[1] *= 1e-42  # denormals stay
    expected = (rounded_rows(x, activations) if format in INTEGERS else x.double()) @ weight.T + bias.double()

    def make():
        out = torch.empty(rows, n)
        kernel.run(x, kernel.prepare(tensors), bias, out)
        return (out,)

    (out,) = same_everywhere(make)
    size = (x.double().abs() @ weight.abs().T + 1).amax()
    assert (out - expected).abs().amax() < 2e-6 * size


@pytest.mark.parametrize("isa", N.isas())
@pytest.mark.parametrize("format, activations", WAYS)
def test_linear_rows_do_not_depend_on_their_company(format, activations, isa):
    N.force_isa(isa)
    n, k = 100, fitting(format, 70)
    kernel, tensors, x = cpu.Linear(format, activations), stored(format, n, k), random(41, k)
    prepared = kernel.prepare(tensors)
    alone = torch.empty(41, n)
    for r in range(41):
        kernel.run(x[r : r + 1], prepared, None, alone[r : r + 1])
    for rows in range(1, 41):
        start = rows * 7 % (42 - rows)
        out = torch.empty(rows, n)
        kernel.run(x[start : start + rows], prepared, None, out)
        assert torch.equal(out, alone[start : start + rows]), f"{rows} rows from {start}"


@pytest.mark.parametrize("format", FORMATS)
def test_linear_writes_columns_of_a_wider_matrix(format):
    k = fitting(format, 40)
    kernel, tensors, x, bias = cpu.Linear(format), stored(format, 40, k), random(9, k), random(40, seed=2)
    prepared, plain, wide = kernel.prepare(tensors), torch.empty(9, 40), torch.full((9, 100), 7.0)
    kernel.run(x, prepared, bias, plain)
    kernel.run(x, prepared, bias, wide[:, 33:73])
    assert torch.equal(wide[:, 33:73], plain) and wide[:, :33].eq(7).all() and wide[:, 73:].eq(7).all()
    wide.fill_(7)
    tape = N.Tape()
    tape.begin(1)
    kernel.run(x[:1], prepared, bias, wide[:1, 33:73])
    tape.end()
    tape.run(9)
    assert torch.equal(wide[:, 33:73], plain)


@pytest.mark.parametrize("format", [name for name in INTEGERS if name != "int8"])
def test_rows_of_a_packed_weight(format):
    k = fitting(format, 40)
    tensors, ids, out = stored(format, 70, k), integers([69, 0, 31, 32, 31]), torch.empty(5, k)
    for kernel in (cpu.Linear(format), reference.OFFERED[f"linear_{format}"]):
        kernel.gather(ids, kernel.prepare(dict(tensors)), out.fill_(9))
        assert torch.equal(out, meaning(format, tensors)[ids.long()].float())
    with pytest.raises(IndexError, match=r"gather: ids\[1\] = 70 is outside 0..69"):
        kernel = cpu.Linear(format)
        kernel.gather(integers([1, 70]), kernel.prepare(tensors), out[:2])


def test_the_largest_sums_of_a_row_fit():
    k = 131_072  # what linear.cpp allows: all weights -128, all activations at the end of int8
    kernel, x, out = cpu.Linear("int8", "row"), torch.ones(3, k), torch.empty(3, 2)
    x[1] = -1
    tensors = {"weight": torch.full((2, k), -128, dtype=torch.int8), "scale": torch.ones(2)}

    def make():
        kernel.run(x, kernel.prepare(tensors), None, out)
        return (out.clone(),)

    (found,) = same_everywhere(make)
    assert torch.equal(found, torch.tensor([[-128.0], [128.0], [-128.0]]).expand(3, 2) * (127 * k * (torch.tensor(1.0) / 127)))
    wide = {"weight": torch.zeros(1, k + 1, dtype=torch.int8), "scale": torch.ones(1)}
    with pytest.raises(ValueError, match="k=131073 must be at most 131072 with one scale per row"):
        kernel.run(torch.ones(1, k + 1), kernel.prepare(wide), None, torch.empty(1, 1))


@pytest.mark.parametrize("format, activations", WAYS)
def test_linear_splits_rows_over_threads_without_changing_them(format, activations):
    """Over several blocks of rows, which threads cut where they like."""
    rows, k = 130, fitting(format, 1100)
    kernel, tensors, x = cpu.Linear(format, activations), stored(format, 64, k), random(rows, k)
    prepared, alone, together = kernel.prepare(tensors), torch.empty(rows, 64), torch.empty(rows, 64)
    for r in range(rows):
        kernel.run(x[r : r + 1], prepared, None, alone[r : r + 1])
    N.set_threads(3)
    kernel.run(x, prepared, None, together)
    assert torch.equal(alone, together)


def test_elementwise_ops_are_right_and_the_same_everywhere():
    rows, hidden = 5, 200
    x, residual, weight, table = random(rows, hidden), random(rows, hidden, seed=1), random(hidden, seed=2), random(30, hidden, seed=3)
    ids = integers([0, 29, 3, 3, 7])

    def make():
        changed, normed, act, wide = x.clone(), torch.empty(rows, hidden), torch.empty(rows, hidden // 2), torch.empty(rows, hidden)
        cpu.norm(changed, weight, 1e-5, normed, residual)
        cpu.gated(x * 20, act)
        cpu.embed(ids, table.bfloat16(), wide)
        return changed, normed, act, wide

    changed, normed, act, wide = same_everywhere(make)
    total = (x + residual).double()
    gate, up = (x * 20).double().chunk(2, 1)
    assert torch.equal(changed, x + residual)
    torch.testing.assert_close(normed.double(), total / (total.square().mean(1, keepdim=True) + 1e-5).sqrt() * weight, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(act.double(), torch.nn.functional.silu(gate) * up, atol=1e-6, rtol=1e-6)
    assert torch.equal(wide, table.bfloat16()[ids.long()].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [8, 64, 80])
def test_rope_write_rotates_and_rounds(head_dim, dtype):
    heads, kv_heads, rows, page = 4, 2, 3, 4
    qkv, half = random(rows, (heads + 2 * kv_heads) * head_dim), head_dim // 2
    angles = torch.outer(torch.arange(50).double(), 10000.0 ** -(torch.arange(half).double() / half))
    table = torch.stack([angles.cos(), angles.sin()], 1).float().contiguous()
    positions, slots = integers([0, 49, 7]), integers([5, 11, 0])

    def make():
        pool, own = torch.zeros(2, 3, kv_heads, page, head_dim, dtype=dtype), qkv.clone()
        cpu.rope_write(own, positions, slots, table, KV(pool[0], pool[1]), heads)
        return own, pool

    own, pool = same_everywhere(make)
    parts = qkv.view(rows, -1, head_dim).double()
    cos, sin = table[positions.long(), 0].double()[:, None], table[positions.long(), 1].double()[:, None]
    a, b = parts[..., :half], parts[..., half:]
    rotated = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    rotated[:, heads + kv_heads :] = parts[:, heads + kv_heads :]
    torch.testing.assert_close(own.view(rows, -1, head_dim).double(), rotated, atol=1e-6, rtol=1e-6)
    for r, slot in enumerate(slots.tolist()):
        written = own.view(rows, -1, head_dim)[r, heads:].to(dtype).view(2, kv_heads, head_dim)
        assert torch.equal(pool[:, slot // page, :, slot % page], written)
    assert pool.count_nonzero() == 2 * rows * kv_heads * head_dim


class Paged:
    """Keys of several requests scattered over pages; rows at given positions, some with a tail of slots."""

    def __init__(self, dtype: torch.dtype, head_dim: int, lengths: list[int], page: int = 16, heads: int = 4, kv_heads: int = 2):
        self.heads, self.kv_heads, self.head_dim, self.page = heads, kv_heads, head_dim, page
        per = -(-max(lengths) // page)
        self.table = torch.randperm(len(lengths) * per, generator=torch.Generator().manual_seed(5)).to(torch.int32).view(len(lengths), per)
        self.pool = random(2, self.table.numel(), kv_heads, page, head_dim).to(dtype)

    def slot(self, request: int, position: int) -> int:
        return int(self.table[request, position // self.page]) * self.page + position % self.page

    def rows(self, places: list[tuple[int, int, int]]) -> AttentionRows:
        """places: (request, position, length of the tail)."""
        tails = [[self.slot(r, p) for p in range(position + 1 - tail, position + 1)] for r, position, tail in places]
        starts = np.cumsum([0] + [len(tail) for tail in tails])
        return AttentionRows(
            integers([r for r, _, _ in places]), integers([p for _, p, _ in places]), integers([p + 1 - t for _, p, t in places]),
            integers(starts), integers([slot for tail in tails for slot in tail]), self.table,
        )  # fmt: skip

    def run(self, qkv: torch.Tensor, places: list[tuple[int, int, int]], window: int) -> torch.Tensor:
        out = torch.empty(len(places), self.heads * self.head_dim)
        cpu.attention(qkv, KV(self.pool[0], self.pool[1]), self.rows(places), self.heads, self.head_dim**-0.5, window, out)
        return out

    def expected(self, qkv: torch.Tensor, places: list[tuple[int, int, int]], window: int) -> torch.Tensor:
        out = torch.empty(len(places), self.heads, self.head_dim, dtype=torch.float64)
        for i, (request, position, _) in enumerate(places):
            visible = range(max(0, position - window + 1) if window else 0, position + 1)
            slots = torch.tensor([self.slot(request, p) for p in visible])
            keys, values = self.pool.transpose(2, 3).reshape(2, -1, self.kv_heads, self.head_dim)[:, slots].double()
            for h in range(self.heads):
                kv, q = h * self.kv_heads // self.heads, qkv[i, h * self.head_dim : (h + 1) * self.head_dim].double()
                out[i, h] = torch.softmax(keys[:, kv] @ q * self.head_dim**-0.5, 0) @ values[:, kv]
        return out.view(len(places), -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("head_dim, window", [(8, 0), (64, 0), (64, 300), (80, 5)])
def test_attention_is_right_and_the_same_everywhere(dtype, head_dim, window):
    paged = Paged(dtype, head_dim, [1200, 40])
    places = [(0, 1199, 0), (1, 0, 0), (1, 39, 0), (0, 511, 0), (0, 512, 3), (0, 1030, 1030), (1, 17, 2)]
    qkv = random(len(places), (4 + 2 * 2) * head_dim, seed=9) * 3
    (out,) = same_everywhere(lambda: (paged.run(qkv, places, window),))
    torch.testing.assert_close(out.double(), paged.expected(qkv, places, window), atol=3e-6, rtol=3e-6)
    for i, (request, position, _) in enumerate(places):  # alone, and with another way to find the same keys
        for tail in (0, min(position + 1, 5)):
            assert torch.equal(paged.run(qkv[i : i + 1], [(request, position, tail)], window)[0], out[i]), (i, tail)


def test_attention_over_an_int8_cache_is_the_same_everywhere_and_near_fp32():
    places = [(0, 1199, 0), (0, 1200, 1), (1, 0, 0), (1, 39, 0), (2, 512, 513)]
    whole, plain = (build_scene(places, head_dim=40, dtype=dtype) for dtype in (torch.int8, torch.float32))
    kernels = Kernels(only="cpu")
    (out,) = same_everywhere(lambda: (attend(kernels, whole),))
    off = (out - attend(kernels, plain)).abs()
    for row, (keys, values) in enumerate(zip(plain.keys, plain.values, strict=True)):
        # a number is off by half a step at most, a score by that times the sum of |q|, a weight by twice as much, relatively
        most = plain.qkv[row, : 4 * 40].view(4, 40).abs().sum(-1).max() * 0.25 * keys.abs().max() / 254
        bound = torch.expm1(2 * most) * values.abs().max() + values.abs().max() / 254
        assert off[row].max() <= bound
    assert off.mean() < 0.01


def test_attention_does_not_depend_on_the_page_size():
    places, qkv, results = [(0, 600, 0), (0, 77, 4)], random(2, 8 * 64), []
    content = random(2, 700, 2, 64)
    for page in (1, 7, 16, 700):
        paged = Paged(torch.float32, 64, [700], page)
        for position in range(700):
            slot = paged.slot(0, position)
            paged.pool[:, slot // page, :, slot % page] = content[:, position]
        results.append(paged.run(qkv, places, 0))
    assert all(torch.equal(result, results[0]) for result in results)


def choices(rows: int, **given) -> SampleRows:
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1, "position": 0, "sample": 0} | given
    kinds = {"top_k": torch.int32, "position": torch.int32, "sample": torch.int32, "seed": torch.int64}
    columns = {name: torch.as_tensor(value, dtype=kinds.get(name, torch.float32)) for name, value in plain.items()}
    return SampleRows(**{name: column.expand(rows).contiguous() for name, column in columns.items()})


def draw(logits: torch.Tensor, **given) -> torch.Tensor:
    out = torch.empty(logits.shape[0], dtype=torch.int32)
    cpu.sample(logits, choices(logits.shape[0], **given), out)
    return out


def test_philox_known_answers():
    words = torch.empty(64, dtype=torch.int32)
    N.noise(words.data_ptr(), 64, 0, 0, 0, words=True)
    assert [word & 0xFFFFFFFF for word in words[:4].tolist()] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = torch.empty(64 * 65, dtype=torch.int32)  # an independent implementation, at another counter and key
    N.noise(words.data_ptr(), words.numel(), 0x0123456789ABCDEF, 77, 3, words=True)
    assert [word & 0xFFFFFFFF for word in words[4000:4004].tolist()] == philox([77, 3, 1000, 0], [0x89ABCDEF, 0x01234567])


def philox(counter: list[int], key: list[int]) -> list[int]:
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & 0xFFFFFFFF, (a >> 32) ^ counter[3] ^ key[1], a & 0xFFFFFFFF]
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return counter


def test_noise_is_gumbel_distributed_finite_and_the_same_everywhere():
    count = 1 << 16

    def make():
        out = torch.empty(count)
        N.noise(out.data_ptr(), count, 2**64 - 1, 12345, 6)
        return (out,)

    (noise,) = same_everywhere(make)
    assert noise.isfinite().all() and noise.max() < 23
    assert abs(noise.mean() - 0.5772) < 0.02 and abs(noise.var() - np.pi**2 / 6) < 0.05


WAYS = [{}, {"top_k": 5}, {"top_p": 0.7}, {"min_p": 0.1}, {"top_k": 40, "top_p": 0.9, "temperature": 1.7}, {"temperature": 0}]


@pytest.mark.parametrize("given", WAYS)
def test_sampling_is_the_same_everywhere_and_the_arg_max_of_what_is_kept(given):
    vocab, rows = 1003, 12
    logits, positions = random(rows, vocab) * 3, torch.arange(rows) * 11
    (out,) = same_everywhere(lambda: (draw(logits, seed=-7, position=positions, sample=2, **given),))
    for r in range(rows):
        assert out[r] == chosen(logits[r], int(positions[r]), given)
        assert draw(logits[r : r + 1].clone(), seed=-7, position=positions[r : r + 1], sample=2, **given)[0] == out[r]


@pytest.mark.parametrize(("given", "kept"), [({"top_p": 0.5}, range(4)), ({"top_p": 0.625}, range(5)), ({"top_p": 0.99}, range(8))])
def test_a_nucleus_that_ends_among_equals_keeps_the_lower_ids(given, kept):
    """Masses of 1/8 add up exactly: the goal is reached by an id and not by the one before it, whatever order sums are taken in."""
    logits = torch.cat([torch.zeros(1, 8), torch.full((1, 120), -torch.inf)], 1).repeat(400, 1)
    (out,) = same_everywhere(lambda: (draw(logits, seed=3, position=torch.arange(400), sample=0, **given),))
    assert set(out.tolist()) == set(kept)


def test_a_nucleus_among_many_alike_is_that_of_a_full_sort():
    vocab = 4000
    logits = random(3, vocab) * 0.2
    for given in ({"top_p": 0.3}, {"top_p": 0.999999}):
        (out,) = same_everywhere(lambda given=given: (draw(logits, seed=-7, position=torch.arange(3), sample=2, **given),))
        assert out.tolist() == [chosen(logits[r], r, given) for r in range(3)]


def chosen(logits: torch.Tensor, position: int, given: dict) -> int:
    """Section 4 of docs/numerics.md, spelled out in fp64 on the kernel's own noise."""
    temperature = given.get("temperature", 1.0)
    if temperature == 0:
        return int(logits.argmax())
    z = logits.double() / temperature
    mass, keep = torch.exp(z - z.max()), torch.ones(len(z), dtype=torch.bool)
    keep &= mass >= given.get("min_p", 0.0)
    order = sorted(range(len(z)), key=lambda v: (-float(z[v]), v))
    if given.get("top_k", 0):
        keep[order[given["top_k"] :]] = False
    if given.get("top_p", 1.0) < 1:
        order = [v for v in order if keep[v]]
        total, running = mass[keep].sum(), 0.0
        for i, v in enumerate(order):
            keep[v] = i == 0 or running < given["top_p"] * total
            running += float(mass[v])
    noise = torch.empty(-(-len(z) // 64) * 64)
    N.noise(noise.data_ptr(), noise.numel(), 2**64 - 7, position, 2)
    return int(torch.where(keep, z + noise[: len(z)], -torch.inf).argmax())


def test_sampling_follows_the_distribution():
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]]).repeat(20_000, 1)
    out = draw(logits, position=torch.arange(20_000))
    found = torch.bincount(out.long(), minlength=5) / len(out)
    assert (found - torch.softmax(logits[0], 0)).abs().max() < 0.012 and found[4] == 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("vocab", [1, 5, 16, 64, 1000])
def test_odd_logits_yield_an_id_of_the_vocabulary(vocab, temperature):
    everything = torch.full((4, vocab), -torch.inf)
    everything[1] = torch.nan
    everything[2], everything[2, -1] = torch.nan, 0.0
    everything[3, -1] = torch.inf
    for given in ({}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.5}):
        assert draw(everything, temperature=temperature, **given).tolist() == [0, 0, vocab - 1, vocab - 1]


def test_ties_go_to_the_lower_id():
    logits = torch.zeros(1, 200)
    logits[0, [63, 64, 150]] = 5.0
    assert draw(logits, temperature=0).tolist() == [63]
    logits[0, 0] = -0.0  # equal to +0
    assert all(draw(logits, top_k=3, position=p)[0] in (63, 64, 150) for p in range(20))
    assert {int(draw(torch.zeros(1, 100) * (-1) ** torch.arange(100), top_k=2, position=p)) for p in range(20)} == {0, 1}


def test_logprobs_ranks_and_tops():
    rows, vocab, top = 4, 131, 7
    logits = torch.round(random(rows, vocab) * 4) / 4  # many ties
    tokens = integers([0, 130, 64, 17])
    value, rank, ids, values = same_everywhere(lambda: cpu.logprobs(logits, tokens, top))
    expected = torch.log_softmax(logits.double(), 1)
    torch.testing.assert_close(value.double(), expected.gather(1, tokens.long()[:, None])[:, 0], atol=2e-6, rtol=1e-6)
    for r in range(rows):
        order = sorted(range(vocab), key=lambda v: (-float(logits[r, v]), v))
        assert ids[r].tolist() == order[:top] and rank[r] == order.index(int(tokens[r])) + 1
        torch.testing.assert_close(values[r].double(), expected[r, order[:top]], atol=2e-6, rtol=1e-6)


def test_move_copies_pairs_in_order():
    pool = random(2, 2, 5, 3, 4, 8).bfloat16()
    expected = pool.transpose(3, 4).reshape(2, 2, 20, 3, 8).clone()
    for source, target in ((3, 7), (7, 12), (1, 3)):
        expected[:, :, target] = expected[:, :, source]
    cpu.move(pool, integers([3, 7, 1]), integers([7, 12, 3]))
    assert torch.equal(pool.transpose(3, 4).reshape(2, 2, 20, 3, 8), expected)


def test_errors_name_what_is_wrong():
    table, out = random(10, 32), torch.empty(2, 32)
    with pytest.raises(IndexError, match=r"embed: ids\[1\] = 10 is outside 0..9"):
        cpu.embed(integers([3, 10]), table, out)
    with pytest.raises(InputError, match="ids must be .* of torch.int32; found .* torch.int64"):
        cpu.embed(torch.tensor([3, 1]), table, out)
    with pytest.raises(InputError, match=r"out must be .*\[2, 32\].*not contiguous"):
        cpu.embed(integers([3, 1]), table, torch.empty(32, 2).T)
    with pytest.raises(InputError, match=r"exactly the tensors \['scale', 'weight'\]"):
        cpu.Linear("int8").prepare({"weight": torch.zeros(4, 4, dtype=torch.int8)})
    with pytest.raises(ValueError, match="temperature"):
        draw(torch.zeros(1, 4), temperature=torch.nan)
    with pytest.raises(ValueError, match="'sse9' is not usable"):
        N.force_isa("sse9")
    assert isinstance(cpu.offer("embed", "cuda"), Declined) and isinstance(cpu.offer("linear_int3", "cpu"), Declined)


def test_any_python_thread_may_call_at_any_time():
    N.set_threads(3)
    kernel, tensors, x = cpu.Linear("fp32"), stored("fp32", 256, 256), random(16, 256)
    prepared, expected, wrong = kernel.prepare(tensors), torch.empty(16, 256), []
    kernel.run(x, prepared, None, expected)

    def work():
        out = torch.empty(16, 256)
        for _ in range(50):
            kernel.run(x, prepared, None, out.zero_())
            if not torch.equal(out, expected):
                wrong.append(1)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for _ in range(10):
        N.set_threads(2)
        N.set_threads(3)
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_a_forked_child():
    N.set_threads(2)
    kernel, tensors, x = cpu.Linear("fp32"), stored("fp32", 256, 256), random(16, 256)
    prepared, expected, out = kernel.prepare(tensors), torch.empty(16, 256), torch.empty(16, 256)
    kernel.run(x, prepared, None, expected)
    child = os.fork()
    if child == 0:
        kernel.run(x, prepared, None, out)
        os._exit(0 if N.threads() == 2 and bool((out == expected).all()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_denormals_survive_a_caller_that_flushes_them():
    x, out = torch.full((1, 32), 1e-40), torch.empty(1, 32)
    kernel = cpu.Linear("fp32")
    prepared = kernel.prepare({"weight": torch.eye(32)})
    assert torch.set_flush_denormal(True)
    try:
        kernel.run(x, prepared, None, out)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(out, x)


def test_probes_answer():
    assert N.read_bandwidth(1 << 20, 2, 0.02) > 1e8
    assert all(N.peak(kind, 1, 0.02) > 1e8 for kind in range(3))
