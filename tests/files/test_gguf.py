"""GGUF headers against the gguf package, and against everything a broken or hostile file may say."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.base.errors import CheckpointError, InputError
from slipstream.files import gguf
from slipstream.files.folder import model_gguf, model_name


def text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def info(name, sizes, kind=0, offset=0):
    return text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes) + struct.pack("<IQ", kind, offset)


def pack(pairs=(), infos=(), data=b"", version=3, counts=None, align=32):
    """A file."""
    tensors, metadata = counts or (len(infos), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, tensors, metadata) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % align) + data


def read(folder, content):
    path = folder / "m.gguf"
    path.write_bytes(content)
    return gguf.read(path)


def test_types_are_those_of_the_gguf_package():
    package = pytest.importorskip("gguf")
    for kind, (block, width) in package.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # an activation type, in files of no model
            assert gguf.TYPES[int(kind)] == (kind.name, block, width)


def test_files_of_the_gguf_package(tmp_path):
    package = pytest.importorskip("gguf")
    import numpy as np

    writer = package.GGUFWriter(tmp_path / "m.gguf", "llama")
    values = {"u8": 200, "i8": -3, "u32": 2**31, "f32": 0.5, "truth": True, "words": "né", "many": [1, 2, 3], "texts": ["a", ""]}
    adders = ("uint8", "int8", "uint32", "float32", "bool", "string", "array", "array")
    for (name, value), adder in zip(values.items(), adders, strict=True):
        getattr(writer, f"add_{adder}")(name, value)
    tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.arange(5, dtype=np.float16)}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf.read(tmp_path / "m.gguf")
    assert {**found.metadata, "general.architecture": "llama"} == {"general.architecture": "llama", **values}
    content = (tmp_path / "m.gguf").read_bytes()
    for name, entry in found.tensors.items():
        assert entry.shape == tensors[name].shape and content[entry.start : entry.end] == tensors[name].tobytes()
    assert [entry.dtype for entry in found.tensors.values()] == ["F32", "F16"]


def test_version_2_and_other_alignments(tmp_path):
    found = read(tmp_path, pack([pair("general.alignment", 4, struct.pack("<I", 8))], [info("x", [2])], bytes(8), version=2, align=8))
    assert found.tensors["x"].end - found.tensors["x"].start == 8


ONE = [info("x", [4])]
U32 = struct.pack("<I", 7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are no GGUF file"),
        (b"GGUF", "4 bytes are no GGUF file"),
        (b"FGUF" + bytes(40), "does not begin with GGUF"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(40), r"GGUF version 1 \(of 2023\) is not supported"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(40), "big-endian"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(40), "version 4 is not supported; supported: 2, 3"),
        (pack(counts=(2**60, 0)), "tensors are claimed in a file of"),
        (pack(counts=(0, 2**60)), "metadata pairs and 0 tensors are claimed"),
        (pack(counts=(0, 1)), "bytes are claimed at byte|claimed in a file"),
        (pack([pair("a", 4, U32), pair("a", 4, U32)]), "'a' occurs twice"),
        (pack([pair(b"\xff", 4, U32)]), "is not UTF-8"),
        (pack([pair("a", 13, U32)]), "value type 13"),
        (pack([pair("a", 8, struct.pack("<Q", 2**63))]), "bytes are claimed at byte"),
        (pack([pair("a", 9, struct.pack("<IQ", 8, 2**61))]), "an array of .* texts is claimed"),
        (pack([pair("a", 9, struct.pack("<IQ", 4, 2**61))]), "bytes are claimed at byte"),
        (pack([pair("a", 9, struct.pack("<IQ", 9, 1) + bytes(20))]), "an array of value type 9"),
        (pack([pair("general.alignment", 4, struct.pack("<I", 0))]), "general.alignment=0 is not a power of two"),
        (pack([pair("general.alignment", 4, struct.pack("<I", 48))]), "general.alignment=48"),
        (pack([pair("general.alignment", 8, text("32"))]), "general.alignment='32'"),
        (pack(infos=ONE, data=bytes(15)), "ends at byte .*, but the file has"),
        (pack(infos=[info("x", [4], offset=4)], data=bytes(64)), "not aligned to 32"),
        (pack(infos=[info("x", [4], offset=2**63)], data=bytes(64)), "ends at byte"),
        (pack(infos=[*ONE, info("y", [4])], data=bytes(64)), "inside another tensor"),
        (pack(infos=[*ONE, info("x", [4], offset=32)], data=bytes(64)), "'x' occurs twice"),
        (pack(infos=[info("x", [])], data=bytes(64)), "has 0 dimensions"),
        (pack(infos=[info("x", [1] * 5)], data=bytes(64)), "has 5 dimensions"),
        (pack(infos=[info("x", [0, 4])], data=bytes(64)), r"sizes \[0, 4\], which F32"),
        (pack(infos=[info("x", [2**63, 2**63])], data=bytes(64)), "which F32 .* cannot have"),
        (pack(infos=[info("x", [2**40, 2**40, 2**40])], data=bytes(64)), "ends at byte"),
        (pack(infos=[info("x", [33], kind=8)], data=bytes(64)), r"which Q8_0 \(blocks of 32\) cannot have"),
        (pack(infos=[info("x", [4], kind=5)], data=bytes(64)), "unknown ggml type 5"),
    ],
)
def test_broken_files_are_named(tmp_path, content, message):
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, content)


VALID = pack(
    [pair("general.architecture", 8, text("llama")), pair("a", 9, struct.pack("<IQ", 8, 2) + text("x") + text("y")), pair("b", 4, U32)],
    [info("x", [4, 2]), info("y", [32], kind=8, offset=32)],
    bytes(32 + 34),
)


def survives(folder, content):
    """Reads or refuses; entries that come back lie inside the file."""
    try:
        found = read(folder, content)
    except InputError:
        return
    assert all(24 <= entry.start < entry.end <= len(content) for entry in found.tensors.values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@given(st.binary(max_size=200))
def test_garbage(folder, content):
    survives(folder, content)
    survives(folder, b"GGUF\x03\0\0\0" + content)


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_damaged_files(folder, seed):
    chances = random.Random(seed)
    content = bytearray(VALID)
    for _ in range(chances.randint(0, 4)):
        content[chances.randrange(len(content))] = chances.choice([0, 1, 2, 8, 9, 127, 128, 255, chances.randrange(256)])
    survives(folder, bytes(content[: chances.choice([len(content), chances.randrange(len(content))])]))


NUMBER = st.integers(0, 70) | st.integers(0, 2**64 - 1) | st.sampled_from([2**31, 2**32 - 1, 2**63, 2**64 - 1])


@given(st.lists(st.tuples(st.text(max_size=3), st.lists(NUMBER, max_size=5), st.integers(0, 45), NUMBER), max_size=3), st.integers(0, 200))
def test_arbitrary_tensors(folder, infos, size):
    survives(folder, pack(infos=[info(name, sizes, kind, offset) for name, sizes, kind, offset in infos], data=bytes(size)))


@given(st.lists(st.tuples(st.text(max_size=3), st.integers(0, 14), st.binary(max_size=40)), max_size=4))
def test_arbitrary_metadata(folder, pairs):
    survives(folder, pack([pair(*each) for each in pairs]))


def test_which_file_a_path_means(tmp_path):
    assert model_gguf(tmp_path) is None and model_gguf(tmp_path / "nowhere") is None
    path = tmp_path / "a.gguf"
    path.write_bytes(VALID)
    (tmp_path / "mmproj-a.gguf").write_bytes(VALID)
    assert model_gguf(tmp_path) == model_gguf(path) == path and model_name(path) == "a"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert model_gguf(tmp_path) is None
    with pytest.raises(InputError, match="not a GGUF file"):
        model_gguf(tmp_path / "model.safetensors")
