"""Tokenizer: loading, refusals, end ids, encoding."""

import json
import socket

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from slipstream.base.errors import InputError
from slipstream.text import Tokenizer
from tests.text.vocabularies import small


@pytest.fixture
def folder(tmp_path):
    small("byte_level").save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_load_encode_decode_without_network(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tokenizer = Tokenizer.load(folder)
    text = "It was the best of times, 話說 🙂"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.vocab_size == small("byte_level").get_vocab_size()
    assert tokenizer.ends == ()


def test_truncation_and_padding_of_the_file_are_off(folder):
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(2)
    backend.enable_padding(length=40)
    backend.save(str(folder / "tokenizer.json"))
    assert Tokenizer.load(folder).decode(Tokenizer.load(folder).encode("all of this text")) == "all of this text"


@pytest.mark.parametrize(("name", "kind"), [("spiece.model", "SentencePiece"), ("tekken.json", "Tekken"), ("vocab.json", "BPE")])
def test_other_kinds_are_refused_by_name(tmp_path, name, kind):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{name}.*{kind}.*convert"):
        Tokenizer.load(tmp_path)


def test_absent_and_broken_files_name_the_way_out(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        Tokenizer.load(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no tokenizer.json.*token ids"):
        Tokenizer.load(tmp_path)
    for content in ("", "{", "{}", '{"version": "1.0", "model": {"type": "Unheard"}}'):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="fetch the file again"):
            Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        (decoders.WordPiece(), "WordPiece"),
        (decoders.CTC(), "CTC"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("a", "b")]), "Fuse > Replace"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), "Strip"),
    ],
)
def test_decoders_that_cannot_be_streamed_are_refused_by_name(decoder, name):
    backend = Backend(models.WordLevel({"a": 0}, unk_token="a"))
    backend.decoder = decoder
    with pytest.raises(InputError, match=name):
        Tokenizer(backend)


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config.json": {"eos_token_id": [7, 9, 7]}, "config.json": {"eos_token_id": 1}}, (7, 9)),
        ({"generation_config.json": {}, "config.json": {"eos_token_id": 1}}, (1,)),
        ({"config.json": {"eos_token_id": 0}}, (0,)),
        ({"config.json": {"text_config": {"eos_token_id": 5}}}, (5,)),
        ({"config.json": {"eos_token_id": None}, "tokenizer_config.json": {"eos_token": "</s>"}}, (1,)),
        ({"tokenizer_config.json": {"eos_token": {"content": "<s>"}}}, (0,)),
        ({"tokenizer_config.json": {"eos_token": None}}, ()),
    ],
)
def test_end_ids(folder, files, ends):
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    assert Tokenizer.load(folder).ends == ends


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("generation_config.json", '{"eos_token_id": "x"}', "eos_token_id"),
        ("config.json", "[1]", "JSON object"),
        ("config.json", "{", "not valid JSON"),
        ("tokenizer_config.json", '{"eos_token": "<unheard>"}', "<unheard>"),
    ],
)
def test_bad_configs_are_named(folder, name, content, match):
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=match):
        Tokenizer.load(folder)


def test_bad_inputs_are_named():
    tokenizer = Tokenizer(small("byte_level"))
    with pytest.raises(InputError, match="must be a string"):
        tokenizer.encode([1, 2])
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(InputError, match="-1"):
        tokenizer.decode([-1])


def test_text_of_single_tokens():
    tokenizer = Tokenizer(small("byte_fallback"))
    assert tokenizer.token_text(tokenizer.token_id("▁a")) == " a"
    assert tokenizer.token_text(tokenizer.token_id("</s>")) == "</s>"
    assert tokenizer.token_text(tokenizer.token_id("<0xE2>")) == "\ufffd"
    assert tokenizer.token_bytes(tokenizer.token_id("<0xE2>")) == b"\xe2"
    assert tokenizer.token_text(10**6) == ""
    assert tokenizer.token_id("nowhere") is None
