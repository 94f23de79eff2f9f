"""The memory plan: sums, pages, refusals that lead out."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.arch import MoeSpec, RouterSpec, shape
from slipstream.base.errors import CapacityError, InputError
from slipstream.cost import kv_bytes, pages_that_fit, plan, scratch_bytes, weights_bytes
from slipstream.cost.memory import human

GIB = 1 << 30
BF16 = {"weight_format": "bf16", "kv_type": "bf16"}
ONE_BILLION = BF16 | {"page_size": 16, "max_len": 8192, "max_batch": 32, "max_rows": 512, "max_logit_rows": 64}
TINY = BF16 | {"kv_type": "fp32", "page_size": 4, "max_len": 30, "max_batch": 3, "max_rows": 5, "max_logit_rows": 2}
PAGE = 4 * 128  # bytes of a page of the tiny spec in fp32


def test_parts_of_the_tiny_spec(tiny):
    assert kv_bytes(tiny, "fp32", 4) == PAGE
    assert kv_bytes(tiny, "int8", 4) == 128 + 128 // tiny.head_dim * 4  # numbers, and a scale for each head's key and value
    # rows: 3 * 8 + max(16 + 8 + 8 + 16, 3 * 16); logits: 2 * 8 + 10; rotary: 30 * 4; tables: 3 * 8 pages
    scratch = 4 * (5 * (24 + 48) + 2 * 26 + 120 + 24)
    assert scratch_bytes(tiny, 5, 2, 30, 3, 4) == scratch
    done = plan(tiny, **TINY, available=None, memory=1 << 20)
    assert (done.weights, done.scratch, done.kv) == (weights_bytes(tiny, "bf16"), scratch, 24 * PAGE)
    assert (done.pages, done.tokens, done.full_requests) == (24, 96, 3)
    assert done.total == done.weights + done.scratch + done.kv


def test_llama_3_2_1b(one_billion):
    done = plan(one_billion, **ONE_BILLION, available=22 * GIB)
    assert done.weights == 2_997_100_544
    assert done.kv == 32 * 8192 * 32_768 == 8 * GIB
    assert done.limit == int(0.9 * 22 * GIB)
    # rows 3 * 2048 + 3 * 8192, logits 2 * 2048 + 128256, rotary 8192 * 64, page tables 32 * 512
    assert done.scratch == 4 * (512 * 30_720 + 64 * 132_352 + 8192 * 64 + 32 * 512)


def test_less_memory_gives_fewer_pages_but_never_less_than_one_request(one_billion):
    done = plan(one_billion, **ONE_BILLION, available=5 * GIB)
    page = 16 * 32_768
    assert done.pages == (done.limit - done.weights - done.scratch) // page
    assert 512 <= done.pages < 32 * 512
    assert done.limit - page < done.total <= done.limit
    with pytest.raises(CapacityError):
        plan(one_billion, **ONE_BILLION, available=None, memory=done.weights + done.scratch + 512 * page - 1)
    assert plan(one_billion, **ONE_BILLION, available=None, memory=done.weights + done.scratch + 512 * page).pages == 512


def test_experts_that_run_all_at_once_are_planned_for(tiny):
    layers = tiny.layers[0], replace(tiny.layers[1], ffn=MoeSpec(RouterSpec(6, 2), 8, 16))
    spec, options = replace(tiny, layers=layers), TINY | {"available": None, "memory": 1 << 20}
    apart, at_once = (plan(spec, **options, inner=inner).scratch for inner in (0, 2))
    assert at_once - apart == 5 * 2 * (2 * 16 + 4 * 8) + 6 * 4 * (5 + 1)  # pairs; the rows of each expert, and how many
    assert plan(tiny, **options, inner=2).scratch == plan(tiny, **options).scratch


def test_lines_print_the_exact_sum(one_billion):
    lines = plan(one_billion, **ONE_BILLION, available=22 * GIB).lines()
    sizes = {line.split()[0]: int(re.search(r"([\d,]+) B ", line)[1].replace(",", "")) for line in lines}
    assert list(sizes) == ["weights", "KV", "scratch", "total", "limit"]
    assert sizes["weights"] + sizes["KV"] + sizes["scratch"] == sizes["total"] <= sizes["limit"]
    assert "16384 pages of 16 = 262144 tokens" in lines[1]
    assert "90% of the 22.00 GiB available" in lines[4]


def test_refusal_names_sum_limit_and_ways_out_that_work(one_billion):
    options = ONE_BILLION | {"kv_type": "fp32", "max_len": 131_072}
    with pytest.raises(CapacityError) as refused:
        plan(one_billion, **options, available=8 * GIB)
    text = str(refused.value)
    parts = [int(size) for size in re.findall(r"(\d+) B\b", text)]
    weights, kv, scratch, total, limit = parts[:5]
    assert weights + kv + scratch == total > limit == int(0.9 * 8 * GIB)
    for way in ("max_len=", "bf16 KV", "quant=int8", "machine or memory limit"):
        assert way in text
    shorter = int(re.search(r"max_len=(\d+) would fit", text)[1])
    assert plan(one_billion, **(options | {"max_len": shorter}), available=8 * GIB).total <= limit


def test_weights_alone_too_large_does_not_promise_a_shorter_context(one_billion):
    with pytest.raises(CapacityError, match="does not fit") as refused:
        plan(one_billion, **ONE_BILLION, available=None, memory=GIB)
    assert "would fit" not in str(refused.value)
    assert "quant=int8" in str(refused.value)


def test_a_number_of_pages_is_kept_or_refused(tiny):
    room = plan(tiny, **TINY, available=None, memory=1 << 20, pages=9)
    assert (room.pages, room.kv) == (9, 9 * PAGE)
    with pytest.raises(CapacityError, match="needs 8 pages"):
        plan(tiny, **TINY, available=None, memory=1 << 20, pages=7)
    with pytest.raises(CapacityError, match=r"20 pages.*pages=9 would fit"):
        plan(tiny, **TINY, available=None, memory=room.total, pages=20)


def test_limits_are_explicit(tiny):
    with pytest.raises(InputError, match="give memory in bytes"):
        plan(tiny, **TINY, available=None)
    with pytest.raises(CapacityError, match="memory=2000.*1000 B.*available"):
        plan(tiny, **TINY, available=1000, memory=2000)
    with pytest.raises(InputError, match="page_size=0"):
        plan(tiny, **(TINY | {"page_size": 0}), available=1 << 20)
    with pytest.raises(InputError, match="kv_type='int4'"):
        plan(tiny, **(TINY | {"kv_type": "int4"}), available=1 << 20)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 64), st.integers(1, 2048), st.integers(1, 16), st.integers(1, 64), st.integers(1, 1 << 24))
def test_a_plan_fits_or_is_refused(page_size, max_len, max_batch, max_rows, memory):
    spec = shape("tiny")
    options = {"page_size": page_size, "max_len": max_len, "max_batch": max_batch, "max_rows": max_rows, "max_logit_rows": max_batch}
    try:
        done = plan(spec, weight_format="int8", kv_type="bf16", **options, available=None, memory=memory)
    except CapacityError as refused:
        assert "Ways out" in str(refused)
        least = weights_bytes(spec, "int8") + scratch_bytes(spec, max_rows, max_batch, max_len, max_batch, page_size)
        assert least + kv_bytes(spec, "bf16", -(-max_len // page_size) * page_size) > memory
        return
    assert done.total <= memory
    assert 1 <= done.full_requests <= max_batch
    assert done.full_requests == max_batch or pages_that_fit(spec, "bf16", page_size, memory - done.total) == 0


def test_human():
    assert [human(size) for size in (0, 1023, 1536, 8 * GIB, 5000 * GIB)] == ["0 B", "1023 B", "1.50 KiB", "8.00 GiB", "4.88 TiB"]
