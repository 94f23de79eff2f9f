"""Bytes and operations against numbers computed by hand."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.arch import AttentionSpec, LayerSpec, ModelSpec, MoeSpec, RopeSpec, RouterSpec, shape
from slipstream.base.errors import InputError
from slipstream.cost import Cost, Work, step_cost, weights_bytes
from slipstream.step import DraftTree

# Llama 3.2 1B: per layer q, o 2048*2048, k, v 512*2048, gate, up, down 8192*2048; rows 2048+512+512+2048+8192+8192+2048
LINEAR = 16 * 60_817_408
ROWS = 16 * 23_552
NORMS = 33 * 2048
TABLE = 128_256 * 2048

CHUNKS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9), st.lists(st.integers(0, 99), max_size=6)), min_size=1, max_size=4)


@pytest.mark.parametrize(
    ("weight_format", "expected"),
    [
        ("fp32", 4 * 1536 + 4 * 40 + 4 * 80 + 4 * 80),  # linear, five norms, head, table
        ("bf16", 2 * 1536 + 4 * 40 + 2 * 80 + 2 * 80),
        ("int8", 1536 + 4 * 160 + 4 * 40 + 80 + 4 * 10 + 2 * 80),
    ],
)
def test_weights_of_the_tiny_spec(tiny, weight_format, expected):
    assert weights_bytes(tiny, weight_format) == expected


def test_weights_of_llama_3_2_1b(one_billion):
    assert LINEAR + TABLE + NORMS == one_billion.parameters() == 1_235_814_400
    assert weights_bytes(one_billion, "bf16") == 2 * LINEAR + 4 * NORMS + 2 * 2 * TABLE == 2_997_100_544
    assert weights_bytes(one_billion, "fp32") == 4 * LINEAR + 4 * NORMS + 2 * 4 * TABLE
    assert weights_bytes(one_billion, "int8") == LINEAR + 4 * ROWS + 4 * NORMS + TABLE + 4 * 128_256 + 2 * TABLE
    assert weights_bytes(one_billion, "int8", stored="fp32") - weights_bytes(one_billion, "int8") == 2 * TABLE


def test_tied_heads_count_again_because_they_are_packed(tiny):
    assert weights_bytes(dataclasses.replace(tiny, tied=True), "bf16") == weights_bytes(tiny, "bf16")


def test_biases_are_fp32(tiny):
    layer = tiny.layers[0]
    biased = dataclasses.replace(layer, mixer=dataclasses.replace(layer.mixer, bias=True, o_bias=True))
    spec = dataclasses.replace(tiny, layers=(biased, layer))
    assert weights_bytes(spec, "int8") - weights_bytes(tiny, "int8") == 4 * (16 + 8 + 8 + 8)


def test_learned_positions_and_a_head_bias(tiny):
    """Tables are in the table's type, a bias in fp32; of the tables only rows are read, of the head nothing without samples."""
    spec = dataclasses.replace(tiny, positions=64, head_bias=True, norm="layer")
    assert weights_bytes(spec, "bf16") - weights_bytes(tiny, "bf16") == 64 * 8 * 2 + 10 * 4 + 5 * 8 * 4
    for sampled in (0, 1):
        work = Work.of([(5, 3, ())], sampled)
        more = step_cost(spec, "bf16", "bf16", work).weights - step_cost(tiny, "bf16", "bf16", work).weights
        assert more == 8 * 2 + sampled * 10 * 4 + 5 * 8 * 4


def test_a_layer_with_a_window_reads_the_window(tiny):
    layer = tiny.layers[0]
    spec = dataclasses.replace(tiny, layers=(layer, dataclasses.replace(layer, mixer=dataclasses.replace(layer.mixer, window=4))))
    cost = step_cost(spec, "bf16", "bf16", Work.of([(9, 1, ())], 1, spec.windows))
    assert cost.kv_read == 10 * 32 + 4 * 32 and cost.kv_written == 64
    assert cost.operations == {"fp32": 2 * (1536 + 80) + (10 + 4) * 4 * 16}
    assert step_cost(spec, "bf16", "bf16", Work.of([(9, 1, ())], 1)).bytes <= cost.bytes


def test_decode_step_of_the_tiny_spec(tiny):
    cost = step_cost(tiny, "bf16", "bf16", Work.of([(5, 1, ())], sampled=1))
    assert cost.weights == 2 * 1536 + 4 * 40 + 2 * 80 + 2 * 8
    assert cost.kv_read == 6 * 64 and cost.kv_written == 64  # a position: 2 layers * (k, v) * 2 heads * 4 * 2 bytes
    assert cost.operations == {"fp32": 2 * (1536 + 80) + 6 * 2 * 4 * 16}
    assert cost.bytes == 3408 + 384 + 64


def test_prefill_chunk_of_the_tiny_spec(tiny):
    cost = step_cost(tiny, "int8", "fp32", Work.of([(3, 4, ())], sampled=0))
    assert cost.weights == 1536 + 4 * 160 + 4 * 40 + 4 * 8 * 2, "no head, four rows of the bf16 table"
    assert (cost.kv_read, cost.kv_written) == (7 * 128, 4 * 128)
    assert cost.operations == {"int8": 2 * 4 * 1536, "fp32": (4 + 5 + 6 + 7) * 2 * 4 * 16}


def test_decode_step_of_llama_3_2_1b(one_billion):
    cost = step_cost(one_billion, "bf16", "bf16", Work.of([(1000, 1, ())], sampled=1))
    assert cost.weights == 2 * LINEAR + 4 * NORMS + 2 * TABLE + 2 * 2048 == 2_471_768_064
    assert cost.kv_written == 16 * 2 * 8 * 64 * 2 == 32_768
    assert cost.kv_read == 1001 * 32_768
    assert cost.operations == {"fp32": 2 * (LINEAR + TABLE) + 1001 * 16 * 4 * 2048}


def test_draft_of_the_tiny_spec(tiny):
    """Three cached, a trunk of two that see 4 and 5 keys, below it two children that see 6 and a grandchild that sees 7."""
    work = Work.of([(3, 2, (1, 1, 2))], sampled=4)
    assert work == Work(rows=5, sampled=4, read=8, keys=4 + 5 + 6 + 6 + 7)
    cost = step_cost(tiny, "bf16", "bf16", work)
    assert cost.weights == 2 * 1536 + 4 * 40 + 2 * 80 + 5 * 2 * 8
    assert (cost.kv_read, cost.kv_written) == (8 * 64, 5 * 64)
    assert cost.operations == {"fp32": 2 * (5 * 1536 + 4 * 80) + 28 * 2 * 4 * 16}


def test_unequal_chunks_share_the_weights_and_nothing_else(tiny):
    """A long prefill, a decode and a draft in one step: all but the weights is the sum over them."""
    chunks = [(20, 100, ()), (300, 1, ()), (50, 1, (1, 2, 3))]
    apart = [step_cost(tiny, "int8", "bf16", Work.of([chunk], 1)) for chunk in chunks]
    whole = step_cost(tiny, "int8", "bf16", Work.of(chunks, sampled=3))
    together = apart[0] + apart[1] + apart[2]
    assert (whole.kv_read, whole.kv_written) == (together.kv_read, together.kv_written) == ((120 + 301 + 54) * 64, 105 * 64)
    assert whole.operations == together.operations
    assert whole.operations["fp32"] == (100 * 20 + 5050 + 301 + 51 + 52 + 53 + 54) * 2 * 4 * 16
    assert whole.weights == 1536 + 4 * 160 + 4 * 40 + 80 + 4 * 10 + 10 * 2 * 8, "head once; of the table all ten rows, not 105"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CHUNKS)
def test_work_counts_what_the_rows_see(drawn):
    """Against sets of visible positions, written out row by row: reads are their union per request, keys their sizes."""
    chunks, rows, read, keys = [], 0, 0, 0
    for start, trunk, shape_of in drawn:
        draft = DraftTree(tuple(shape_of), tuple(number % (node + 1) - 1 for node, number in enumerate(shape_of)))
        end = start + trunk
        seen = [set(range(position + 1)) for position in range(start, end)]
        seen += [set(range(end)) | {end + ancestor for ancestor in draft.path(node)} for node in range(len(draft))]
        rows, read, keys = rows + len(seen), read + len(set().union(*seen)), keys + sum(map(len, seen))
        chunks.append((start, trunk, draft.depths()))
    assert Work.of(chunks, sampled=len(chunks)) == Work(rows, len(chunks), read, keys)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CHUNKS, st.integers(1, 40))
def test_work_within_a_window(drawn, window):
    """As above, each row seeing `window` positions at most; and where the window was not counted, never more than that."""
    chunks, rows, read, keys = [], 0, 0, 0
    for start, trunk, shape_of in drawn:
        draft = DraftTree(tuple(shape_of), tuple(number % (node + 1) - 1 for node, number in enumerate(shape_of)))
        end = start + trunk
        seen = [set(range(max(0, position + 1 - window), position + 1)) for position in range(start, end)]
        for node in range(len(draft)):
            path = [*range(end), *(end + ancestor for ancestor in draft.path(node))]
            seen.append(set(path[max(0, len(path) - window) :]))
        rows, read, keys = rows + len(seen), read + len(set().union(*seen)), keys + sum(map(len, seen))
        chunks.append((start, trunk, draft.depths()))
    assert Work.of(chunks, len(chunks), (window,)).within(window) == (read, keys)
    certain = Work.of(chunks, len(chunks)).within(window)
    assert certain[0] <= read and certain[1] <= keys


def test_empty_work_costs_nothing(tiny):
    assert Work.of([], sampled=0) == Work()
    assert step_cost(tiny, "int8", "bf16", Work()) == Cost()


def test_the_weights_are_read_once_for_the_whole_batch(tiny):
    one = step_cost(tiny, "bf16", "bf16", Work.of([(9, 1, ())], sampled=1))
    batch = step_cost(tiny, "bf16", "bf16", Work.of([(9, 1, ())] * 8, sampled=8))
    assert batch.weights == one.weights + 7 * 2 * 8, "seven more rows of the table"
    assert (batch.kv_read, batch.kv_written) == (8 * one.kv_read, 8 * one.kv_written)
    assert batch.operations == {"fp32": 8 * one.operations["fp32"]}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(0, 300), st.integers(1, 39))
def test_chunks_of_a_prompt_compute_as_much_as_the_whole(rows, context, cut):
    """Cutting costs bytes, never operations; the KV written is the same."""
    spec = shape("tiny")
    cut = min(cut, rows)
    whole = step_cost(spec, "bf16", "bf16", Work.of([(context, rows, ())], 0))
    parts = step_cost(spec, "bf16", "bf16", Work.of([(context, cut, ())], 0))
    if cut < rows:
        parts = parts + step_cost(spec, "bf16", "bf16", Work.of([(context + cut, rows - cut, ())], 0))
    assert parts.operations == whole.operations
    assert parts.kv_written == whole.kv_written
    assert parts.bytes >= whole.bytes


def test_activations_in_e4m3_are_products_of_e4m3(tiny):
    """Attention stays what its cache makes it, and weights that leave activations alone do so."""
    four, plain = (
        [step_cost(tiny, format, "fp8", Work.of([(0, 4, ())], 1), device="cuda", activations=way).operations for way in ("32", "fp8")]
        for format in ("int4", "bf16")
    )
    assert set(four[0]) == {"bf16"} and set(four[1]) == {"bf16", "fp8"} and four[1]["fp8"] > four[1]["bf16"] > 0
    assert sum(four[1].values()) == four[0]["bf16"] and plain[0] == plain[1]


def test_costs_add_up_by_kind():
    total = Cost(1, 2, 3, {"fp32": 4}) + Cost(10, 20, 30, {"fp32": 40, "int8": 5})
    assert total == Cost(11, 22, 33, {"fp32": 44, "int8": 5})
    assert total.bytes == 66


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weight_format": "fp8"}, "weight_format='fp8'.*int8"),
        ({"kv_type": "int4"}, "kv_type='int4'.*bf16"),
        ({"kv_type": "int8", "device": "cuda"}, "kv_type='int8'.*bf16.*fp8"),
        ({"stored": "int8"}, "stored='int8'"),
    ],
)
def test_unknown_formats_are_named(tiny, change, match):
    good = {"weight_format": "bf16", "kv_type": "bf16", "work": Work.of([(0, 4, ())], 1)}
    with pytest.raises(InputError, match=match):
        step_cost(tiny, **(good | change))


@pytest.mark.parametrize(
    ("chunk", "sampled", "match"),
    [
        ((0, 0, ()), 0, "trunk=0"),
        ((-1, 4, ()), 0, "start=-1"),
        ((0, 4, (1, 0)), 0, r"depths=\[1, 0\]"),
        ((0, 4, ()), 5, "sampled=5"),
        ((0, 4, ()), -1, "sampled=-1"),
    ],
)
def test_contradictions_are_named(chunk, sampled, match):
    with pytest.raises(InputError, match=match):
        Work.of([chunk], sampled)


@pytest.mark.parametrize("numbers", [(3, 1, 2, 9), (3, 1, 9, 8), (3, 1, 9, 28), (0, 0, 1, 0)])
def test_numbers_that_no_step_has_are_refused(numbers):
    """Fewer positions read than rows, fewer keys than positions, more keys than all rows can see, and keys of no rows."""
    with pytest.raises(InputError, match="must satisfy"):
        Work(*numbers)


def test_experts_cost_what_rows_can_touch():
    """hidden 8, one layer: attention 768 - 384 weights as in `tiny`, a router of 6 rows, 6 experts of 3 * 16 * 8, a shared one of
    3 * 4 * 8 behind a gate."""
    mixer = AttentionSpec(heads=4, kv_heads=2, head_dim=4, rope=RopeSpec(10000.0))
    ffn = MoeSpec(RouterSpec(6, 2), 8, 16, shared=4, shared_gate=True)
    spec = ModelSpec("sparse", "mixtral", 8, 10, 64, 1e-5, False, (LayerSpec(mixer, ffn),))
    always, expert, fp32 = 384 + 96, 384, 6 * 8 + 8 + 3 * 8  # the router, the gate and three norms stay fp32
    assert weights_bytes(spec, "bf16") == 2 * (always + 6 * expert + 80 + 80) + 4 * fp32
    for rows, touched in ((1, 2), (2, 4), (3, 6), (9, 6)):
        cost = step_cost(spec, "bf16", "fp32", Work(rows, 0, rows, rows * rows))
        assert cost.weights == 2 * (always + touched * expert + min(rows, 10) * 8) + 4 * fp32
        assert cost.operations["fp32"] == 2 * rows * (always + 2 * expert + 6 * 8 + 8) + rows * rows * 4 * 16
