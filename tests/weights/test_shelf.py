"""Packed weights on disk: the same bits without packing again; what is old, damaged or too large for the disk is not used."""

import os
from pathlib import Path

import pytest
import torch

from slipstream.base import native
from slipstream.model import Decoder
from slipstream.ops import Kernels
from slipstream.quant.formats import int4
from slipstream.weights import Loaded, load, shelf
from slipstream.weights.shelf import Shelf
from tests.model.paged import Paged, Rows
from tests.weights import gguf_files, tiny

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(shelf.VARIABLE, str(tmp_path / "packed"))
    return tmp_path / "packed"


def logits(source, format=None):
    """As engine/build.py does it."""
    weights, kernels = load(source), Kernels(only="cpu")
    format = format or weights.as_stored
    weights.shelf = Shelf(weights.files, f"{format}/test")
    decoder = Decoder(weights.spec, weights, kernels, 8, 8, format=format)
    weights.shelf.close()
    return Paged(decoder).step(Rows(0, tiny.TOKENS[:8]))[0]


@pytest.fixture
def checkpoint(tmp_path):
    return tiny.write(tmp_path / "model", tiny.random_weights())


def test_the_second_start_packs_nothing(checkpoint, folder, monkeypatch):
    first = logits(checkpoint, "int4")
    (kept,) = folder.iterdir()
    monkeypatch.setattr(int4, "quantise", lambda weight: pytest.fail("packed again"))
    assert torch.equal(logits(checkpoint, "int4"), first) and [*folder.iterdir()] == [kept]


def test_other_formats_and_changed_files_are_packed_for_themselves(checkpoint, folder):
    first = logits(checkpoint, "int4")
    assert not torch.equal(logits(checkpoint, "int8"), first) and len([*folder.iterdir()]) == 2
    other = {name: values * 2 if "down" in name else values for name, values in tiny.random_weights().items()}
    tiny.write(checkpoint, other)
    os.utime(checkpoint / "model.safetensors", ns=(1, 1))
    before = {*folder.iterdir()}
    assert not torch.equal(logits(checkpoint, "int4"), first)
    assert len([*folder.iterdir()]) == 2 and {*folder.iterdir()} != before  # in the place of the old one


def test_blocks_of_a_gguf_file_and_its_shared_table(tmp_path, folder, monkeypatch):
    source = tmp_path / "model.gguf"
    gguf_files.write(source, tiny.CONFIG, tiny.random_weights(), lambda name: "Q6_K" if "v_proj" in name else "Q4_K")
    first = logits(source)
    monkeypatch.setattr(Loaded, "stored", lambda self, name: pytest.fail("packed again"))
    assert torch.equal(logits(source), first)


def test_a_damaged_file_is_replaced(checkpoint, folder, caplog):
    first = logits(checkpoint, "int4")
    (kept,) = folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    assert torch.equal(logits(checkpoint, "int4"), first) and "weights are packed again" in caplog.text
    caplog.clear()
    assert torch.equal(logits(checkpoint, "int4"), first) and not caplog.text


def test_a_full_disk_keeps_nothing(checkpoint, folder, monkeypatch, caplog):
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    logits(checkpoint, "int4")
    assert "packed weights are not kept: less than twice" in caplog.text and not [*folder.iterdir()]


def test_off(checkpoint, folder, monkeypatch):
    monkeypatch.setenv(shelf.VARIABLE, "off")
    logits(checkpoint, "int4")
    assert not folder.exists()


def test_what_is_kept_is_used_where_it_lies_and_begins_at_a_line_of_the_cache(checkpoint, folder):
    logits(checkpoint, "int4")
    (kept,) = folder.iterdir()
    weights = load(checkpoint)
    found = Shelf(weights.files, "int4/test").get("")
    panels = [tensor for name, tensor in found.items() if name.endswith("/panels")]
    assert len(panels) > 5 and all(tensor.data_ptr() % 64 == 0 for tensor in panels)
    places = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(kept))]
    assert all(any(int(a, 16) <= tensor.data_ptr() < int(b, 16) for a, b in places) for tensor in panels)


def test_it_is_written_by_large_pages(tmp_path, monkeypatch):
    parts, writes = [bytes(range(200)), b"", bytes(7), bytes(range(100, 250)) * 9], []
    monkeypatch.setattr(shelf, "LARGE_PAGE", 512)
    shelf._by_page(type("File", (), {"write": lambda self, page: writes.append(bytes(page))})(), parts)
    assert b"".join(writes) == b"".join(parts) and {len(page) for page in writes[:-1]} == {512}
