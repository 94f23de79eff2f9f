"""Tokenizers out of GGUF metadata and SentencePiece models: equal to the expected encodings; what cannot be translated is refused."""

import base64
import gzip
import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.base.errors import InputError
from slipstream.files import gguf
from slipstream.text import Detokenizer, Tokenizer, gguf_vocabulary, sentencepiece
from slipstream.text.pieces import _BYTE_OF_CHAR
from tests.text.vocabularies import SHARED, real

GGUF = ("deepseek-llm", "falcon", "gpt-2", "llama-spm", "phi-3", "starcoder")
MODELS = ("llama2_tokenizer", "mistral_v1", "mistral_v3", "test_model_unigram_1000")
# tiktoken tables, the GGUF kind that cuts like them, and the texts with encodings by llama.cpp
TABLES = {
    "llama3_tokenizer.model": ("llama-bpe", "llama-bpe"),
    "qwen_tokenizer.model": ("qwen2", "qwen2"),
    "o200k_base.tiktoken": ("gpt-4o", None),
}


@pytest.fixture(scope="module")
def folder():
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no shared test data at {SHARED}; set SLIPSTREAM_SHARED")
    return SHARED / "data/tokenizers"


@pytest.fixture(scope="module")
def references(folder):
    with gzip.open(folder / "expected/reference_encodings.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def recorded(folder, name):
    """(text, ids by llama.cpp) pairs."""
    texts = (folder / f"gguf/ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = (folder / f"gguf/ggml-vocab-{name}.gguf.out").read_text().split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, ids, strict=True)]


@pytest.mark.parametrize("name", GGUF)
def test_gguf_vocabularies(folder, name):
    tokenizer = Tokenizer.load(folder / f"gguf/ggml-vocab-{name}.gguf")
    pairs = recorded(folder, name)
    assert len(pairs) == 47
    for text, expected in pairs:
        assert tokenizer.encode(text, special=False) == expected, text
        streamed = Detokenizer(tokenizer)
        assert "".join(map(streamed.push, expected)) + streamed.flush() == tokenizer.decode(expected) == text


@pytest.mark.parametrize("name", MODELS)
def test_sentencepiece_models(folder, references, name):
    tokenizer = Tokenizer(*sentencepiece.load(folder / f"sentencepiece/{name}.model"))
    for row in references:
        expected = row["ids"][f"sentencepiece/{name}"]
        assert tokenizer.encode(row["text"], special=False) == expected, row["text"]
        if "unigram" not in name:
            assert tokenizer.decode(expected) == row["text"]
    assert tokenizer.ends == (2,)


def test_gguf_and_sentencepiece_of_llama_agree_with_recorded_ones(folder, references):
    of_gguf = Tokenizer.load(folder / "gguf/ggml-vocab-llama-spm.gguf")
    of_model = Tokenizer(*sentencepiece.load(folder / "sentencepiece/llama2_tokenizer.model"))
    for text, expected in recorded(folder, "llama-spm"):
        assert of_model.encode(text, special=False) == expected
    for row in references[::4]:
        assert of_gguf.encode(row["text"], special=False) == row["ids"]["hf/llama2"]
    tests = json.loads((folder / "expected/hf_llama_encoded.json").read_text(encoding="utf-8"))
    assert of_model.encode(tests["text"]) == of_gguf.encode(tests["text"]) == tests["token_ids"]


@pytest.mark.parametrize("name", ["llama2", "phi-3-mini", "falcon", "gpt-neox-20b", "t5-small"])
def test_tokenizer_json(references, name):
    tokenizer = Tokenizer(real(name))
    for row in references:
        assert tokenizer.encode(row["text"], special=False) == row["ids"][f"hf/{name}"], row["text"]


def test_encodings_by_other_libraries(folder):
    """One text or source file each, encoded by transformers or by dotnet/machinelearning."""
    expected = folder / "expected"
    falcon = json.loads((expected / "hf_falcon_encoded.json").read_text(encoding="utf-8"))
    assert Tokenizer.load(folder / "gguf/ggml-vocab-falcon.gguf").encode(falcon["text"]) == falcon["token_ids"]
    llama = json.loads((expected / "hf_llama_3.2_encoded.json").read_text(encoding="utf-8"))
    metadata = table_metadata(folder / "tiktoken/llama3_tokenizer.model", "llama-bpe")
    tokenizer = Tokenizer(*gguf_vocabulary.of_metadata(metadata, "llama3"))
    assert tokenizer.encode(llama["text"]) == [token for token in llama["token_ids"] if token < 128000]
    for name, of in (("gpt2", Tokenizer.load(folder / "gguf/ggml-vocab-gpt-2.gguf")), ("gpt4o", o200k(folder))):
        ids = json.loads((expected / f"dotnet_tokens_{name}.json").read_text())
        assert len(ids) > 1000 and of.encode(of.decode(ids, skip_special=False)) == ids


def o200k(folder):
    return Tokenizer(*gguf_vocabulary.of_metadata(table_metadata(folder / "tiktoken/o200k_base.tiktoken", "gpt-4o"), "o200k"))


def table_metadata(path, pre):
    """GGUF metadata of a tiktoken table, with the merges that its ranks mean."""
    tokens, merges = tokens_and_merges(path)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": False,
    }


@cache
def tokens_and_merges(path):
    ranks = {}
    for line in path.read_bytes().splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    char = {byte: char for char, byte in _BYTE_OF_CHAR.items()}

    def text(token):
        return "".join(char[byte] for byte in token)

    tokens = ["[unused]"] * (max(ranks.values()) + 1)
    merges = []
    for token, rank in ranks.items():
        tokens[rank] = text(token)
        if len(token) > 1:
            parts = [bytes([byte]) for byte in token]
            while len(parts) > 2:
                at = min(range(len(parts) - 1), key=lambda at: ranks.get(parts[at] + parts[at + 1], 1 << 40))
                if parts[at] + parts[at + 1] not in ranks:
                    break
                parts[at : at + 2] = [parts[at] + parts[at + 1]]
            if len(parts) == 2:
                merges.append((rank, f"{text(parts[0])} {text(parts[1])}"))
    return tokens, [merge for _, merge in sorted(merges)]


@pytest.mark.parametrize("table", TABLES)
def test_kinds_of_cutting_against_tiktoken(folder, references, table):
    pre, name = TABLES[table]
    tokenizer = Tokenizer(*gguf_vocabulary.of_metadata(table_metadata(folder / f"tiktoken/{table}", pre), table))
    for text, expected in recorded(folder, name) if name else ():
        assert tokenizer.encode(text) == expected, text
    for row in references:
        assert tokenizer.encode(row["text"]) == row["ids"][f"tiktoken/{table}"], row["text"]


# the makers' published patterns of kinds without recorded encodings (tekken.json of Mistral Nemo; tokenizer.json of DeepSeek-V3)
PUBLISHED = {
    "tekken": [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ],
    "deepseek-v3": [
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"""
        r"""|\s*[\r\n]+|\s+(?!\S)|\s+""",
    ],
}  # fmt: skip


def by_hand(text, patterns, ranks):
    """Byte-level BPE with another regular expression engine: cut by one pattern after the other, join the pair of least rank first."""
    regex, words = pytest.importorskip("regex"), [text]
    for pattern in patterns:
        cut = []
        for word in words:
            at = 0
            for match in regex.finditer(pattern, word):
                cut += [word[at : match.start()], match[0]]
                at = match.end()
            cut.append(word[at:])
        words = [word for word in cut if word]
    ids = []
    for word in words:
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            at = min(range(len(parts) - 1), key=lambda at: ranks.get(parts[at] + parts[at + 1], 1 << 40))
            if parts[at] + parts[at + 1] not in ranks:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        ids += [ranks[part] for part in parts]
    return ids


@pytest.mark.parametrize("pre", PUBLISHED)
def test_kinds_of_cutting_against_their_published_patterns(folder, references, pre):
    table = folder / "tiktoken/o200k_base.tiktoken"
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in table.read_bytes().splitlines())}
    tokenizer = Tokenizer(*gguf_vocabulary.of_metadata(table_metadata(table, pre), pre))
    texts = [row["text"] for row in references[::2]] + [text for text, _ in recorded(folder, "llama-bpe")]
    expected = [by_hand(text, PUBLISHED[pre], ranks) for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    other = Tokenizer(*gguf_vocabulary.of_metadata(table_metadata(table, "gpt-4o"), "gpt-4o"))
    assert sum(other.encode(text) != ids for text, ids in zip(texts, expected, strict=True)) >= 10, "the texts tell kinds apart"


def test_special_tokens_around_a_text(folder):
    llama = Tokenizer.load(folder / "gguf/ggml-vocab-llama-spm.gguf")
    assert llama.encode("Hi")[0] == 1 and llama.encode("Hi", special=False) == llama.encode("Hi")[1:]
    assert Tokenizer.load(folder / "gguf/ggml-vocab-gpt-2.gguf").encode("Hi") == [17250]
    assert llama.encode("a</s>", special=False)[-1] == 2 and llama.decode([1, *llama.encode("a", special=False), 2]) == "a"
    phi = Tokenizer.load(folder / "gguf/ggml-vocab-phi-3.gguf")
    assert phi.ends == (32000, 32007) and phi.token_text(32007) == "<|end|>"


def test_settings_beside_a_sentencepiece_model(folder, tmp_path):
    (tmp_path / "tokenizer.model").symlink_to(folder / "sentencepiece/mistral_v3.model")
    assert Tokenizer.load(tmp_path).encode("[INST]Hi")[:3] == [1, 3, Tokenizer.load(tmp_path).token_id("▁Hi")]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true, "legacy": false}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.encode("[INST]Hi") == [3, tokenizer.token_id("Hi"), 2]
    (tmp_path / "config.json").write_text('{"eos_token_id": 7}')
    assert Tokenizer.load(tmp_path).ends == (7,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "bert"}, r"model='bert' is not supported; supported: gpt2 \(BPE\), llama"),
        ({"model": None}, "model=None is not supported"),
        ({"pre": "bloom"}, "pre='bloom' is not supported; supported: gpt-2, .*llama-bpe"),
        ({"pre": None}, "pre=None is not supported"),
        ({"tokens": []}, r"has no tokenizer\.ggml\.tokens"),
        ({"token_type": [1]}, "token_type does not belong to 3 tokens"),
        ({"merges": ["ab"]}, "merges must be a list of pairs"),
        ({"merges": ["x y"]}, "the vocabulary cannot be used"),
        ({"add_bos_token": True, "bos_token_id": 9}, "bos_token_id or eos_token_id is not in the vocabulary of 3"),
    ],
)
def test_other_gguf_kinds_are_refused_by_name(changes, message):
    metadata = {"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "b", "ab"], "merges": ["a b"]}
    assert Tokenizer(*gguf_vocabulary.of_metadata({f"tokenizer.ggml.{k}": v for k, v in metadata.items()}, "x")).encode("ab") == [2]
    metadata = {f"tokenizer.ggml.{key}": value for key, value in {**metadata, **changes}.items()}
    with pytest.raises(InputError, match=message):
        gguf_vocabulary.of_metadata(metadata, "x.gguf")


LISTS = st.lists(st.sampled_from(["a", "b", "ab", "a b", "", "▁", "<0x41>"]), max_size=4) | st.lists(st.integers(-1, 7), max_size=4)
ANY = LISTS | st.lists(st.floats(), max_size=4) | st.integers(-2, 9) | st.booleans() | st.sampled_from(["gpt2", "llama", "gpt-2", "x"])
NAMES = ("tokens", "scores", "token_type", "merges", "bos_token_id", "eos_token_id", "add_bos_token", "add_space_prefix")


@settings(max_examples=300)
@given(st.sampled_from(["gpt2", "llama"]), st.dictionaries(st.sampled_from(NAMES), ANY))
def test_arbitrary_metadata_is_a_tokenizer_or_refused(model, values):
    metadata = {"model": model, "pre": "gpt-2", "tokens": ["a", "b", "ab"], **values}
    try:
        tokenizer = Tokenizer(*gguf_vocabulary.of_metadata({f"tokenizer.ggml.{key}": value for key, value in metadata.items()}, "x"))
    except InputError:
        return
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.encode("ab c"))


def test_wordpiece_in_gguf_is_refused(folder):
    with pytest.raises(InputError, match="'bert' is not supported"):
        Tokenizer.load(folder / "gguf/ggml-vocab-bert-bge.gguf")


def message(*fields):
    """Protobuf: (number, bytes or whole number) fields."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += bytes([number << 3 | 2]) + varint(len(value)) + value
        else:
            out += varint(number << 3) + varint(value)
    return out


def varint(value):
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


SMALL = message((1, message((1, b"<unk>"), (3, 2))), (1, message((1, b"a"))), (2, message((3, 2), (41, 2**64 - 1), (42, 2**64 - 1))))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x", r"tokenizer\.model: is no SentencePiece model \(perhaps a tiktoken file\).*convert it"),
        (b"IQ== 0\nIg== 1\n", "perhaps a tiktoken file"),
        (SMALL[:-3], "damaged SentencePiece model"),
        (message((1, b"\xff")), "damaged"),
        (message((1, message((1, b"a"))), (2, message((3, 3)))), "model type word is not supported"),
        (message((1, message((1, b"a"))), (2, message((3, 2), (24, 1)))), "spaces at the end of words is not supported"),
        (message((1, message((1, b"a"))), (2, b"")), "unigram vocabulary needs a piece for unknown"),
    ],
)
def test_bad_sentencepiece_models_are_refused(tmp_path, content, expected):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(InputError, match=expected):
        Tokenizer.load(tmp_path)


def test_small_sentencepiece_model(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(SMALL)
    assert Tokenizer.load(tmp_path).encode("a")[-1] == 1 and Tokenizer.load(tmp_path).ends == ()


@settings(max_examples=200)
@given(st.integers(0, len(SMALL)), st.integers(0, len(SMALL) - 1), st.integers(0, 255), st.binary(max_size=8))
def test_damaged_sentencepiece_models(tmp_path_factory, end, at, byte, more):
    path = tmp_path_factory.getbasetemp() / "damaged.model"
    content = bytearray(SMALL)
    content[at] = byte
    path.write_bytes(b"\x0a" + bytes(content[1:end]) + more)
    try:
        Tokenizer(*sentencepiece.load(path))
    except InputError:
        return


def test_metadata_is_read_once_per_load(folder, monkeypatch):
    calls = []
    read = gguf.read
    monkeypatch.setattr(gguf, "read", lambda path: calls.append(path) or read(path))
    Tokenizer.load(folder / "gguf/ggml-vocab-llama-spm.gguf")
    assert len(calls) == 1
