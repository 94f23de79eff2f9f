"""The decoder's own rules: no torch operation but the kernels', limits, nothing from the network."""

import socket
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slipstream.base.errors import CapacityError, InputError
from slipstream.model import Decoder, load_model
from slipstream.model import batch as batches
from slipstream.model.scratch import Scratch
from slipstream.ops import Kernels
from slipstream.ops.types import CODES_ROOM
from slipstream.weights.dummy import Dummy
from tests.model.paged import Paged, Rows


class SilentLinear:
    name = "silent"

    def prepare(self, stored):
        return stored

    def run(self, x, prepared, bias, out):
        assert x.shape == (len(out), prepared["weight"].shape[1]) and out.shape[1] == prepared["weight"].shape[0]
        assert x.is_contiguous() and out.is_contiguous()


class SilentKernels:
    """Kernels that compute nothing, so that all torch operations seen are the decoder's own."""

    device, pads = "cpu", False

    embed = norm = rope_write = attention = gated = staticmethod(lambda *arguments: None)

    def linear(self, format):
        return SilentLinear()

    def gate_up(self, format):
        return None

    def tape(self):
        return None


class NoOperations(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} on the hot path")


def test_hot_path_makes_no_torch_operation():
    decoder = load_model("dummy:tiny", SilentKernels(), max_rows=8, max_logit_rows=4)
    paged = Paged(decoder)
    batch, _ = paged.batch((Rows(0, [1, 2, 3]), Rows(1, [4])))
    rows = torch.tensor([2, 3], dtype=torch.int32)
    first = decoder.logits(decoder.forward(batch, paged.pool), rows)  # makes the views of these row counts
    with NoOperations():
        again = decoder.logits(decoder.forward(batch, paged.pool), rows)
    assert again.data_ptr() == first.data_ptr()


def test_limits_are_named():
    decoder = load_model("dummy:tiny", SilentKernels(), max_rows=4, max_logit_rows=2)
    paged = Paged(decoder)
    batch, _ = paged.batch((Rows(0, [1, 2, 3, 4, 5]),))
    with pytest.raises(CapacityError, match="max_rows=4"):
        decoder.forward(batch, paged.pool)
    with pytest.raises(CapacityError, match="max_logit_rows=2"):
        decoder.logits(torch.empty(4, 64), torch.arange(3, dtype=torch.int32))
    for wrong in (0, 2049):
        with pytest.raises(InputError, match=f"max_len={wrong}.*2048"):
            load_model("dummy:tiny", SilentKernels(), max_rows=1, max_logit_rows=1, max_len=wrong)
    assert decoder.scratch_bytes == 4 * (4 * (3 * 64 + 480) + 2 * (2 * 64 + 512)) + 4 * 2048 * 16


def test_scratch_groups_overlay_each_other():
    scratch = Scratch(4, {"a": 3}, [{"b": 5, "c": 2}, {"d": 6}])
    assert scratch.bytes == 4 * 4 * (3 + 7)
    views = scratch.rows(2)
    assert views is scratch.rows(2)
    for number, name in enumerate("abc"):
        views[name].fill_(number)
    assert [views[name].unique().tolist() for name in "abc"] == [[0], [1], [2]]
    assert views["d"].data_ptr() == views["b"].data_ptr()


def test_a_buffer_in_a_narrower_type_keeps_its_place():
    types = {"b": torch.bfloat16, "c": torch.float8_e4m3fn}
    plain, mixed = (Scratch(4, {"a": 32, "b": 32, "c": 32}, types=given) for given in ({}, types))
    assert mixed.bytes == plain.bytes
    views = mixed.rows(4)
    assert {name: (view.dtype, tuple(view.shape)) for name, view in views.items()} == {
        "a": (torch.float32, (4, 32)), "b": (torch.bfloat16, (4, 32)), "c": (torch.float8_e4m3fn, (4, 32 + CODES_ROOM)),
    }  # fmt: skip
    assert all(view.is_contiguous() for view in views.values())
    places = [view.data_ptr() - views["a"].data_ptr() for view in views.values()]
    assert places == [0, 4 * 4 * 32, 2 * 4 * 4 * 32]


def test_nothing_touches_the_network(make_llama, tmp_path, monkeypatch):
    make_llama().save_pretrained(tmp_path)

    def refuse(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    load_model(tmp_path, Kernels(only="reference"), max_rows=1, max_logit_rows=1)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="is not in the cache .*HF_HUB_OFFLINE"):
        load_model("meta-llama/Llama-3.2-1B", Kernels(only="reference"), max_rows=1, max_logit_rows=1)


def test_the_first_layers_are_a_model_of_their_own():
    """The same logits as a model that has no more layers, while the whole one goes on as before."""
    sizes, text = dict(max_rows=8, max_logit_rows=8), [5, 6, 7, 8]
    whole = load_model("dummy:tiny:fp32", Kernels(), **sizes)
    shorter = replace(whole.spec, layers=whole.spec.layers[:1])
    alone = Decoder(shorter, Dummy(shorter, "fp32"), Kernels(), *sizes.values())
    before = Paged(whole).step(Rows(0, text))[0]
    first = whole.part(slice(1), *sizes.values(), 64)
    assert first.pool_shape(4, 4)[0] == 1 and whole.pool_shape(4, 4)[0] == 2
    assert torch.equal(Paged(first).step(Rows(0, text))[0], Paged(alone).step(Rows(0, text))[0])
    assert torch.equal(Paged(whole).step(Rows(0, text))[0], before)


def test_rows_that_join_at_a_layer_are_what_they_would_be():
    """With the whole model's own states there, the last layers give the whole model's bits."""
    whole = load_model("dummy:tiny:fp32", Kernels(), max_rows=8, max_logit_rows=8)
    whole.watch((1,))
    text, every = torch.tensor([[5, 6, 7, 8]]), torch.arange(4, dtype=torch.int32)
    pool = torch.zeros(whole.pool_shape(1, 4))
    hidden = whole.forward(batch := batches.whole(text, 4, 4), pool).clone()
    last = whole.part(slice(1, None), 8, 8, 64)
    joined = replace(batch, states=whole.states(hidden, every))
    for _ in range(2):  # recorded, and from the tape
        out = last.forward(joined, other := torch.zeros(last.pool_shape(1, 4)))
        assert torch.equal(out, hidden) and torch.equal(other[0], pool[1])
        assert torch.equal(last.logits(out, every), whole.logits(hidden, every))
