"""Replay: what was recorded once gives the same bits for any number of rows, and is recorded anew where memory has moved."""

from dataclasses import replace

import pytest
import torch

from slipstream.arch import MoeSpec, RouterSpec, shape
from slipstream.base import native
from slipstream.model import Batch
from slipstream.model.decoder import Decoder
from slipstream.ops import Kernels
from slipstream.ops.replay import Replay
from slipstream.ops.types import AttentionRows
from slipstream.step import DraftTree
from slipstream.weights.dummy import Dummy
from tests.model.paged import Paged, Rows

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")
PAGE_TABLE, TAILS, ROWS = (2, 8), 32, 16


class Fixed(Paged):
    """A worker whose batches always lie in the same memory, as the real one's do."""

    def __init__(self, decoder):
        super().__init__(decoder)
        self.memory = [torch.zeros(ROWS, dtype=torch.int32) for _ in range(5)]
        self.tail_start, self.tail_slots = torch.zeros(ROWS + 1, dtype=torch.int32), torch.zeros(TAILS, dtype=torch.int32)
        self.table = torch.zeros(PAGE_TABLE, dtype=torch.int32)

    def batch(self, work):
        batch, counts = super().batch(work)
        keys, rows = batch.attention, len(batch.ids)
        for place, values in zip(self.memory, (batch.ids, batch.positions, batch.slots, keys.request, keys.linear), strict=True):
            place[:rows] = values
        self.tail_start[: rows + 1] = keys.tail_start
        self.tail_slots[: len(keys.tail_slots)] = keys.tail_slots
        self.table[: len(keys.page_table), : keys.page_table.shape[1]] = keys.page_table
        ids, positions, slots, request, linear = (place[:rows] for place in self.memory)
        tail_start, tail_slots = self.tail_start[: rows + 1], self.tail_slots[: max(1, len(keys.tail_slots))]
        return Batch(ids, positions, slots, AttentionRows(request, positions, linear, tail_start, tail_slots, self.table)), counts


class Counting:
    """Kernels that count how often Python asks for an embedding."""

    def __init__(self, kernels):
        self._kernels, self.embeds = kernels, 0

    def embed(self, *arguments):
        self.embeds += 1
        self._kernels.embed(*arguments)

    def __getattr__(self, name):
        return getattr(self._kernels, name)


TREE = DraftTree((5, 6, 7), (-1, 0, 0))
STEPS = [
    (Rows(0, [1, 2, 3]), Rows(1, [4])),
    (Rows(0, [9], TREE), Rows(1, [8, 7, 6, 5])),
    (Rows(1, [3]),),
    (Rows(0, [2, 2, 2, 2, 2], TREE), Rows(1, [1], DraftTree((3,), (-1,)))),
]


def with_experts(**changes):
    """The tiny model with experts in place of its feed-forward layers."""
    spec = shape("tiny")
    ffn = MoeSpec(RouterSpec(5, 2), spec.hidden, 32, **changes)
    return replace(spec, layers=tuple(replace(layer, ffn=ffn) for layer in spec.layers))


MODELS = {
    "dense": (shape("tiny"), "bf16"),
    "experts": (with_experts(), "int8"),
    "experts and a shared part": (with_experts(shared=48, shared_gate=True, activation="gelu"), "bf16"),
    "clamped experts": (with_experts(bias=True, activation="clamped", limit=1.5, slope=1.702), "bf16"),
}


def logits(kernels, worker=Fixed, model="dense"):
    spec, format = MODELS[model]
    decoder = Decoder(spec, Dummy(spec, "bf16"), kernels, ROWS, ROWS, format=format)
    paged = worker(decoder)
    return [row for work in STEPS for row in paged.step(*work)], decoder


@pytest.mark.parametrize("model", MODELS)
def test_replayed_steps_have_the_bits_of_direct_ones(model, monkeypatch):
    kernels = Counting(Kernels(only="cpu"))
    replayed, _ = logits(kernels, model=model)
    assert kernels.embeds == 1 + len(STEPS)  # the step once; the rows for the logits lie elsewhere in every step of this worker
    monkeypatch.setattr(Kernels, "tape", lambda self: None)
    direct, _ = logits(kernels, model=model)
    assert all(torch.equal(a, b) for a, b in zip(replayed, direct, strict=True)) and len(direct) == 7


def test_moved_memory_is_recorded_anew():
    kernels = Counting(Kernels(only="cpu"))
    moving, decoder = logits(kernels, Paged)
    fixed, _ = logits(Kernels(only="cpu"))
    assert kernels.embeds == 2 * len(STEPS)
    assert all(torch.equal(a, b) for a, b in zip(moving, fixed, strict=True))


def test_a_failure_while_recording_leaves_nothing_recorded():
    kernels = Kernels(only="cpu")
    replay, x = Replay(kernels, True), torch.ones(2, 4)

    def fail():
        kernels.scale(x, 2.0)
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            replay.run(fail, 2, (x,))
    kernels.scale(x, 3.0)  # nothing records any more
    assert x.unique().tolist() == [3.0]
    replay.run(lambda: kernels.scale(x, 2.0), 2, (x,))
    replay.run(fail, 1, (x,))  # not called: x lies where it lay
    assert x.tolist() == [[12.0] * 4, [6.0] * 4]
