"""From a plan to addresses: each row against the picture at the top of worker/batching.py."""

import pytest

from slipstream.step import Admission, Chunk, DraftTree, SamplingParams
from slipstream.worker.batching import Batcher
from slipstream.worker.slots import Slots

PAGE = 4


@pytest.fixture
def slots():
    made = Slots(count=3, max_pages=8, vocab=50, device="cpu")
    for request in (7, 8):
        made.admit(Admission(request, (1, 2, 3), 3, SamplingParams(), seed=0))
    return made


def cell(pages, index):
    return pages[index // PAGE] * PAGE + index % PAGE


def keys_seen(batch, row, pages):
    """Slots of the keys that a row sees, in order of their position."""
    attention = batch.attention
    linear = [cell(pages, index) for index in range(int(attention.linear[row]))]
    return [*linear, *attention.tail_slots[int(attention.tail_start[row]) : int(attention.tail_start[row + 1])].tolist()]


def test_rows_of_a_chunk_and_of_a_draft(slots):
    first, second = (9, 4), (2, 11, 5)
    tree = DraftTree((20, 21, 22), (-1, 0, -1))  # 20 -> 21, and 22 beside 20
    chunks = [Chunk(7, 3, (30, 31, 32), first, sample=False), Chunk(8, 6, (33,), second, sample=True, draft=tree)]
    batch = Batcher(slots, PAGE, max_rows=16, device="cpu").build(chunks)
    assert batch.ids.tolist() == [30, 31, 32, 33, 20, 21, 22]
    assert batch.positions.tolist() == [3, 4, 5, 6, 7, 8, 7], "a node's position is that of its depth"
    assert batch.slots.tolist() == [*(cell(first, i) for i in (3, 4, 5)), *(cell(second, i) for i in (6, 7, 8, 9))]
    table = batch.attention.page_table
    assert [table[row, :2].tolist() for row in batch.attention.request.tolist()[:3]] == [list(first)] * 3
    for row, (pages, path) in enumerate([(first, [])] * 3 + [(second, []), (second, [7]), (second, [7, 8]), (second, [9])]):
        end = 7 if row > 3 else int(batch.positions[row]) + 1
        assert keys_seen(batch, row, pages) == [*(cell(pages, i) for i in range(end)), *(cell(pages, i) for i in path)]
        assert len(keys_seen(batch, row, pages)) == int(batch.positions[row]) + 1


def test_kept_nodes_move_forward_in_an_order_that_loses_nothing(slots):
    pages = (2, 11, 5)
    chunk = Chunk(8, 5, (33,), pages, sample=True, draft=DraftTree((1, 2, 3, 4), (-1, 0, 0, 2)))
    batcher = Batcher(slots, PAGE, max_rows=16, device="cpu")
    batcher.build([chunk])
    content = {cell(pages, 6 + node): node for node in range(4)}
    for source, target in batcher.moves(chunk, slots[8], kept=[0, 2, 3]):
        content[target] = content[source]
    assert [content[cell(pages, 6 + place)] for place in range(3)] == [0, 2, 3]
    assert batcher.moves(chunk, slots[8], kept=[0, 1]) == []


def test_tables_grow_and_start_anew_after_a_release(slots):
    batcher = Batcher(slots, PAGE, max_rows=16, device="cpu")
    batcher.build([Chunk(7, 0, (1, 2), (3,), sample=False)])
    grown = batcher.build([Chunk(7, 2, (3, 4, 5), (3, 6), sample=False)])
    assert grown.slots.tolist() == [cell((3, 6), i) for i in (2, 3, 4)]
    slots.release(7)
    slots.admit(Admission(7, (1, 2, 3), 3, SamplingParams(), seed=0))
    again = batcher.build([Chunk(7, 0, (1,), (1,), sample=False)])
    assert again.slots.tolist() == [cell((1,), 0)]
