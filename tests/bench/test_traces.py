"""Published traces: every shape of file, and what is wrong with others."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.base.errors import InputError
from slipstream.bench.traces import Entry, read

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9051690,396,109\n"
MOONCAKE = """{"timestamp": 3000, "input_length": 7, "output_length": 5, "hash_ids": [0]}
{"timestamp": 6000, "input_length": 8, "output_length": 6, "hash_ids": [0]}
"""
LENGTHS = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.85\n"


def write(path, text):
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_published_files(tmp_path):
    first, second = read(write(tmp_path / "azure.csv", AZURE), 9)
    assert (first, second.prompt, second.output) == (Entry(374, 44, 0.0), 396, 109) and second.at == pytest.approx(4.224579)
    assert read(write(tmp_path / "mooncake.jsonl.gz", MOONCAKE), 9) == [Entry(7, 5, 0.0), Entry(8, 6, 3.0)]
    assert read(write(tmp_path / "arxiv.csv.gz", LENGTHS), 9) == [Entry(3772, 54)]
    assert len(read(tmp_path / "azure.csv", 1)) == 1


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("a.csv", "length,words\n1,2\n", "request 1 has no length"),
        ("a.csv", "input_length,output_length\n", "holds no request"),
        ("a.csv", "input_length,output_length\n5,0\n", "output_length='0'"),
        ("a.csv", "input_length,output_length,timestamp\n5,1,soon\n", "timestamp='soon'"),
        ("a.csv", "input_length,output_length,timestamp\n5,1,nan\n", "timestamp='nan'"),
        ("a.jsonl", '{"input_length": 5, "output_length": 1}\n{"input', "request 2 is not JSON"),
        ("a.jsonl", "[1]\n", "request 1 is not an object"),
        ("a.jsonl", '{"input_length": Infinity, "output_length": 1}\n', "input_length=inf"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, text, said):
    with pytest.raises(InputError, match="trace .*" + said):
        read(write(tmp_path / name, text), 9)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.csv", 1)


@given(st.binary(max_size=200), st.sampled_from(["a.csv", "a.jsonl", "a.csv.gz"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("trace") / name
    path.write_bytes(data)
    try:
        assert all(entry.prompt > 0 and entry.output > 0 for entry in read(path, 9))
    except InputError as error:
        assert "trace" in str(error)
