"""Headers against the safetensors library, and against everything a broken or hostile file may say."""

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from slipstream.base.errors import CheckpointError
from slipstream.files.safetensors import INDEX, read_file, read_folder

TENSORS = {
    "b.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a": np.arange(5, dtype=np.int64),
    "empty": np.zeros((0, 3), np.float16),
}


def pack(header, data=b"", length=None):
    """A file of this header (an object or raw bytes)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def read(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return read_file(path)


@pytest.fixture
def valid(tmp_path):
    save_file(TENSORS, tmp_path / "valid.safetensors", {"format": "pt"})
    return (tmp_path / "valid.safetensors").read_bytes()


def test_entries_point_at_the_data(tmp_path, valid):
    entries = read(tmp_path, valid)
    assert set(entries) == set(TENSORS)
    for name, entry in entries.items():
        assert entry.shape == TENSORS[name].shape
        assert valid[entry.start : entry.end] == TENSORS[name].tobytes()
    assert [entries[name].dtype for name in ("b.weight", "a", "empty")] == ["F32", "I64", "F16"]


def one(**changes):
    return {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "header length 0"),
        (b"\x05\x00\x00", "header length 5"),
        (pack({}, length=2**63), "header length"),
        (pack({}, length=200_000_000), "header length"),
        (pack(b"nothing"), "no valid JSON"),
        (pack(b"\xff\xfe{}"), "no valid JSON"),
        (pack(b"[" * 100_000), "no valid JSON"),
        (pack(b"[1, 2]"), "not an object"),
        (pack(b'{"w": ' + b"9" * 5000 + b"}"), "no valid JSON"),
        (pack(b'{"w": {}, "w": {}}'), "occurs twice"),
        (pack({"w": 3}), "needs exactly dtype, shape and data_offsets"),
        (pack(one(more=1), bytes(16)), "needs exactly"),
        (pack(one(dtype="F33"), bytes(16)), "unknown dtype 'F33'"),
        (pack(one(dtype=["F32"]), bytes(16)), "unknown dtype"),
        (pack(one(shape=[-2, -2]), bytes(16)), "not a list of whole numbers"),
        (pack(one(shape=[2, True]), bytes(16)), "not a list of whole numbers"),
        (pack(one(shape=[2.0, 2]), bytes(16)), "not a list of whole numbers"),
        (pack(one(shape=[2, 2**70]), bytes(16)), "not a list of whole numbers"),
        (pack(one(shape=[0, 2**40]), bytes(16)), "does not take 16 bytes"),
        (pack(one(shape=[2, 3]), bytes(16)), "does not take 16 bytes"),
        (pack(one(shape=[1] * 17), bytes(16)), "shape"),
        (pack(one(data_offsets=[0, 17]), bytes(16)), "outside the 16 bytes"),
        (pack(one(data_offsets=[16, 0]), bytes(16)), "outside the 16 bytes"),
        (pack(one(data_offsets=[-16, 0]), bytes(16)), "not two whole numbers"),
        (pack(one(data_offsets=[0, 16, 16]), bytes(16)), "not two whole numbers"),
        (pack(one(data_offsets="ab"), bytes(16)), "not two whole numbers"),
        (pack(one(), bytes(15)), "outside the 15 bytes"),
        (pack(one(), bytes(17)), "describes"),
        (pack(one(data_offsets=[4, 20]), bytes(20)), "gap or overlap"),
        (pack({**one(), "x": one(data_offsets=[8, 24])["w"]}, bytes(24)), "gap or overlap"),
    ],
)
def test_broken_headers_are_named(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, content)


def survives(folder, content):
    """Reads or raises CheckpointError; entries that come back lie inside the file."""
    try:
        entries = read(folder, content)
    except CheckpointError:
        return
    assert all(8 <= entry.start <= entry.end <= len(content) for entry in entries.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(st.binary(max_size=200))
def test_garbage(folder, content):
    survives(folder, content)
    survives(folder, pack(content))


KEYS = st.sampled_from(["dtype", "shape", "data_offsets", "w"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
NUMBER = st.integers(-2, 40) | st.integers() | st.sampled_from([2**31, 2**62, 2**63, 2**64])
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "F4", "I8", "F8_E4M3", "X"]) | JSON,
        "shape": st.lists(NUMBER, max_size=4) | JSON,
        "data_offsets": st.lists(NUMBER, min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRY | JSON, max_size=3), st.binary(max_size=40))
def test_headers_with_arbitrary_numbers(folder, header, data):
    survives(folder, pack(header, data))


@given(st.integers(0, 2**32))
def test_damaged_files(folder, seed):
    chances = random.Random(seed)
    content = bytearray(pack({**one(), "x": {"dtype": "BF16", "shape": [3], "data_offsets": [16, 22]}}, bytes(22)))
    for _ in range(chances.randint(0, 3)):
        content[chances.randrange(len(content))] = chances.randrange(256)
    survives(folder, bytes(content[: chances.choice([len(content), chances.randrange(len(content))])]))


def write_shards(folder, placed=None):
    save_file({"a": TENSORS["a"]}, folder / "one.safetensors")
    save_file({"b": TENSORS["a"]}, folder / "two.safetensors")
    placed = {"a": "one.safetensors", "b": "two.safetensors"} if placed is None else placed
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_shards(tmp_path):
    write_shards(tmp_path)
    entries = read_folder(tmp_path)
    assert {name: entry.file.name for name, entry in entries.items()} == {"a": "one.safetensors", "b": "two.safetensors"}


@pytest.mark.parametrize(
    ("placed", "message"),
    [
        ({"a": "one.safetensors"}, None),
        ({"a": "one.safetensors", "b": "three.safetensors"}, r"three\.safetensors: is missing"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, "'b' should lie in one"),
        ({"a": "two.safetensors", "b": "two.safetensors"}, "'a' should lie in two"),
        ({"b": "one.safetensors"}, r"'a' lies in one\.safetensors, but the index says None"),
        ({"a": "../one.safetensors"}, "not a .*file of this folder"),
        ({"a": "/etc/passwd"}, "not a .*file of this folder"),
        ({"a": 3}, "weight_map must map"),
        ({}, "weight_map must map"),
    ],
)
def test_wrong_indices_are_named(tmp_path, placed, message):
    write_shards(tmp_path, placed)
    if message is None:
        assert set(read_folder(tmp_path)) == {"a"}  # a shard that the index does not name is not opened
        return
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)
