"""A row's bits depend on nothing but the row: not on its neighbours, its place, the pages it lies in or the threads."""

import numpy as np
import pytest
import torch

from slipstream.ops import KV, Kernels
from tests.ops.scenes import WAYS, SampleRows, attend, build_scene, draw, equal_bits, fitting, random, sample_rows, stored

ROWS = 40


def op_embed(kernels):
    table, ids = random(50, 96, seed=1).bfloat16(), torch.randint(50, (ROWS,), generator=torch.Generator().manual_seed(2)).int()

    def compute(index):
        out = torch.empty(len(index), 96)
        kernels.embed(ids[index], table, out)
        return [out]

    return compute


def op_norm(kernels, hidden=2113):
    x, residual, weight = random(ROWS, hidden, seed=1), random(ROWS, hidden, seed=2), random(hidden, seed=3)

    def compute(index):
        summed, out = x[index].contiguous(), torch.empty(len(index), hidden)
        kernels.norm(summed, weight, 1e-5, out, residual[index].contiguous())
        return [summed, out]

    return compute


def op_linear(format, activations, n, k):
    k = fitting(format, k)

    def op(kernels):
        kernel = Kernels(only=kernels.choices()[0].chosen, activations=activations).linear(format)
        prepared = kernel.prepare(stored(format, n, k))
        x, bias = random(ROWS, k, seed=1), random(n, seed=2)

        def compute(index):
            out = torch.empty(len(index), n)
            kernel.run(x[index].contiguous(), prepared, bias, out)
            return [out]

        return compute

    return op


def op_rope_write(kernels):
    heads, kv_heads, head_dim, page_size = 4, 2, 24, 4
    qkv = random(ROWS, (heads + 2 * kv_heads) * head_dim, seed=1)
    table = random(64, 2, head_dim // 2, seed=2)
    positions = torch.randint(64, (ROWS,), generator=torch.Generator().manual_seed(3)).int()

    def compute(index):
        part = qkv[index].contiguous()
        kv = KV(*(torch.zeros(ROWS, kv_heads, page_size, head_dim, dtype=torch.bfloat16) for _ in range(2)))
        slots = torch.arange(len(index)).int() * 3
        kernels.rope_write(part, positions[index], slots, table, kv, heads)
        page, offset = slots.long() // page_size, slots.long() % page_size
        return [part, kv.keys[page, :, offset], kv.values[page, :, offset]]

    return compute


def op_gated(kernels, width=1501):
    gate_up = random(ROWS, 2 * width, seed=1) * 4

    def compute(index):
        out = torch.empty(len(index), width)
        kernels.gated(gate_up[index].contiguous(), out)
        return [out]

    return compute


def op_sample(kernels):
    logits = random(ROWS, 1003, seed=1) * 3
    generator = torch.Generator().manual_seed(2)
    choice = torch.arange(ROWS) % 5
    rows = sample_rows(
        ROWS,
        temperature=torch.where(choice == 0, 0.0, 0.8),
        top_k=torch.where(choice == 1, 20, 0),
        top_p=torch.where(choice == 2, 0.7, 1.0),
        min_p=torch.where(choice == 3, 0.05, 0.0),
        seed=torch.randint(-(2**63), 2**63 - 1, (ROWS,), generator=generator),
    )

    def compute(index):
        part = SampleRows(*(getattr(rows, name)[index].contiguous() for name in SampleRows.__slots__))
        return [draw(kernels, logits[index].contiguous(), part)]

    return compute


def op_logprobs(kernels):
    logits = random(ROWS, 1003, seed=1) * 3
    tokens = torch.randint(1003, (ROWS,), generator=torch.Generator().manual_seed(3)).int()
    return lambda index: list(kernels.logprobs(logits[index].contiguous(), tokens[index], 5))


BUILDERS = {
    "embed": op_embed,
    "norm": op_norm,
    "rope_write": op_rope_write,
    "gated": op_gated,
    "sample": op_sample,
    "logprobs": op_logprobs,
    **{f"linear_{way[0]}_{way[1]}_{n}x{k}": op_linear(*way, n, k) for way in WAYS for n, k in ((96, 64), (100, 333), (1027, 704))},
}


@pytest.mark.parametrize("op", BUILDERS)
def test_a_row_has_the_same_bits_in_every_batch(kernels, threads, op):
    compute = BUILDERS[op](kernels)
    threads(1)
    alone = [compute([row]) for row in range(ROWS)]
    rng = np.random.default_rng(0)
    for count in (2, 3, 7, 15, 16, 17, 32, 40):
        for number in (1, 2, 4):
            threads(number)
            index = rng.integers(0, ROWS, count).tolist()
            for got, want in zip(compute(index), zip(*[alone[row] for row in index], strict=True), strict=True):
                assert equal_bits(got, torch.cat(want)), f"{op}: rows {index}, {number} threads"


@pytest.mark.parametrize("window", [0, 37])
def test_an_attention_row_has_the_same_bits_in_every_batch_and_layout(kernels, threads, window):
    rows = [(0, p, 0) for p in (0, 1, 5, 14, 15, 16, 40)] + [(1, 700, 0), (1, 511, 3), (2, 1030, 9), (2, 1025, 4), (3, 33, 33)]
    alone = [attend(kernels, build_scene([row]), window) for row in rows]
    rng = np.random.default_rng(1)
    for trial in range(6):
        threads(1 + trial % 2)
        index = rng.integers(0, len(rows), rng.integers(1, 14)).tolist()
        got = attend(kernels, build_scene([rows[i] for i in index], page_size=(1, 8, 16, 64)[trial % 4], layout=trial), window)
        assert equal_bits(got, torch.cat([alone[i] for i in index])), f"rows {index}"


def test_tree_rows_equal_the_same_tokens_laid_out_linearly(kernels):
    tree = [(0, 20, 1), (0, 21, 2), (0, 25, 6), (1, 511, 2), (1, 512, 3), (1, 513, 4), (2, 1100, 40)]
    linear = [(request, position, 0) for request, position, _ in tree]
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        for window in (0, 4, 300):
            got = attend(kernels, build_scene(tree, dtype=dtype), window)
            assert equal_bits(got, attend(kernels, build_scene(linear, dtype=dtype, layout=7), window)), f"{dtype}, window {window}"


SHAPES = (
    {"kv_heads": 2, "group": 4, "head_dim": 64, "dtype": torch.bfloat16},
    {"kv_heads": 1, "group": 3, "head_dim": 20, "dtype": torch.float32},
    {"kv_heads": 1, "group": 80, "head_dim": 16, "dtype": torch.int8},  # more heads than a piece takes
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("window", [0, 21])
def test_rows_of_a_chunk_and_of_the_draft_behind_it_equal_each_row_alone(kernels, threads, shape, window):
    """Neighbouring rows share the reading of keys, over the end of a segment too; slots behind a row's last key hold NaN."""
    chunk = [(0, position, 0) for position in range(499, 519)]
    draft = [(0, 519, 1), (0, 520, 2), (0, 520, 2), (0, 521, 3)]
    rows = [*chunk, *draft, (1, 3, 0), (1, 4, 0), (1, 5, 6)]
    threads(1)
    alone = torch.cat([attend(kernels, build_scene([row], layout=9, **shape), window) for row in rows])
    for count in (1, 2):
        threads(count)
        assert equal_bits(attend(kernels, build_scene(rows, page_size=5, **shape), window), alone), f"{count} threads"
        some = [*rows[3:17], *rows[19:]]
        assert equal_bits(attend(kernels, build_scene(some, **shape), window), torch.cat([alone[3:17], alone[19:]])), f"{count} threads"


def test_segments_of_a_row_may_be_computed_by_several_threads(kernels, threads):
    scene = build_scene([(0, 2600, 0), (0, 2601, 2)], kv_heads=1, group=4, head_dim=32)
    results = []
    for count in (1, 2, 5):
        threads(count)
        results.append(attend(kernels, scene))
    assert all(equal_bits(result, results[0]) for result in results)
