"""Detokenizer: exact, prompt, whole characters, bounded."""

import codecs
import gzip
import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.text import Detokenizer, Tokenizer
from slipstream.text.detokenize import LONGEST_PART
from tests.text.vocabularies import REAL, SHARED, SMALL, backend

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
FAMILIAR = [3 + byte for byte in "日é🙂 a".encode()]  # byte pieces of a byte-fallback vocabulary that make characters
SEQUENCES = st.lists(st.one_of(st.integers(0, 1 << 17), st.integers(0, 300), st.sampled_from(FAMILIAR)), max_size=24)


def runs_are_well_formed(hf, tokens: list[int], skip_special: bool) -> bool:
    """Whether every run of byte pieces is UTF-8: elsewhere `tokenizers` blanks out the whole run."""
    special = {token for token, added in hf.get_added_tokens_decoder().items() if added.special and skip_special}
    run = b""
    for token in [*tokens, None]:
        text = None if token is None else hf.id_to_token(token)
        if token is not None and (token in special or text is None):
            continue
        piece = BYTE_PIECE.fullmatch(text or "")
        if piece:
            run += bytes.fromhex(piece[1])
            continue
        try:
            run.decode()
        except UnicodeDecodeError:
            return False
        run = b""
    return True


def streamed(tokenizer: Tokenizer, tokens: list[int], prompt: list[int], skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, prompt, skip_special=skip_special)
    parts = []
    for token in tokens:
        parts.append(detokenizer.push(token))
        assert detokenizer.held <= LONGEST_PART
    return [*parts, detokenizer.flush()]


@pytest.mark.parametrize("name", SMALL + REAL)
def test_pushes_are_decode_of_all_and_that_of_the_library(name):
    hf = backend(name)
    tokenizer = Tokenizer(hf)

    @settings(max_examples=120, deadline=None, derandomize=True)
    @given(SEQUENCES, st.booleans())
    def check(raw, skip_special):
        tokens = [token % (tokenizer.vocab_size + 3) for token in raw]
        text = tokenizer.decode(tokens, skip_special)
        assert "".join(streamed(tokenizer, tokens, [], skip_special)) == text
        if runs_are_well_formed(hf, tokens, skip_special):
            assert text == hf.decode(tokens, skip_special_tokens=skip_special)

    check()


@pytest.mark.parametrize("name", SMALL + REAL)
def test_text_after_a_prompt_continues_it(name):
    """What is emitted is exactly what decode(prompt + tokens) has beyond the part that the prompt made certain."""
    tokenizer = Tokenizer(backend(name))

    @settings(max_examples=120, deadline=None, derandomize=True)
    @given(SEQUENCES, SEQUENCES)
    def check(raw_prompt, raw):
        prompt, tokens = ([token % (tokenizer.vocab_size + 3) for token in each] for each in (raw_prompt, raw))
        before = Detokenizer(tokenizer)
        certain = "".join(map(before.push, prompt))
        assert certain + "".join(streamed(tokenizer, tokens, prompt)) == tokenizer.decode(prompt + tokens)

    check()


def test_leading_space_goes_only_at_the_beginning():
    tokenizer = Tokenizer(backend("byte_fallback"))
    word = tokenizer.encode("a b", special=False)
    assert "".join(streamed(tokenizer, word, [])) == "a b"
    assert "".join(streamed(tokenizer, word, word)) == " a b"
    begin = tokenizer.token_id("<s>")
    assert "".join(streamed(tokenizer, word, [begin])) == "a b", "a special token is no beginning of the text"


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "byte_fallback_no_strip"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.text(max_size=12))
def test_valid_text_never_shows_a_replacement_and_comes_at_once(name, text):
    tokenizer = Tokenizer(backend(name))
    text = text.replace("▁", "_")  # the marks of a Metaspace vocabulary cannot be told from spaces
    tokens = tokenizer.encode(text, special=False)
    parts = streamed(tokenizer, tokens, [])
    assert "".join(parts) == tokenizer.decode(tokens)
    assert parts[-1] == "", "nothing is left when the last character is complete"
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(parts)
    if name == "byte_level":
        reader = codecs.getincrementaldecoder("utf-8")()
        assert parts[:-1] == [reader.decode(tokenizer.token_bytes(token)) for token in tokens], "each character as soon as it is complete"


def test_a_character_in_four_tokens():
    tokenizer = Tokenizer(backend("byte_fallback_no_strip"))
    tokens = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in "🙂".encode()]
    assert streamed(tokenizer, tokens, []) == ["", "", "", "🙂", ""]
    assert streamed(tokenizer, tokens[2:], tokens[:2]) == ["", "🙂", ""], "begun by the prompt, completed by the tokens"
    assert streamed(tokenizer, tokens[:3], []) == ["", "", "", "\ufffd\ufffd\ufffd"]
    assert streamed(tokenizer, [*tokens[:2], tokenizer.token_id("a")], []) == ["", "", "\ufffd\ufffda", ""]


def test_a_run_with_one_bad_byte_keeps_its_good_characters():
    """The documented difference from `tokenizers`, which blanks out the whole run."""
    hf = backend("byte_fallback_no_strip")
    tokens = [hf.token_to_id(f"<0x{byte:02X}>") for byte in "é".encode() + b"\xff"]
    assert Tokenizer(hf).decode(tokens) == "é\ufffd"
    assert hf.decode(tokens) == "\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(("name", "byte"), [("byte_level", 0xE2), ("byte_level", 0x80), ("byte_fallback", 0xF0), ("byte_fallback", 0xBF)])
def test_endless_invalid_bytes_are_shown_as_they_come(name, byte):
    hf = backend(name)
    tokenizer = Tokenizer(hf)
    token = next(token for token in range(hf.get_vocab_size()) if tokenizer.token_bytes(token) == bytes([byte]))
    detokenizer = Detokenizer(tokenizer)
    shown = 0
    for pushed in range(1, 2001):
        shown += len(detokenizer.push(token))
        assert shown >= pushed - LONGEST_PART
    assert shown + len(detokenizer.flush()) == 2000


def test_cost_of_a_token_does_not_grow_with_the_text():
    tokenizer = Tokenizer(backend("byte_level"))
    token = tokenizer.encode("a")[0]
    detokenizer = Detokenizer(tokenizer)

    def seconds(pushes: int) -> float:
        begin = time.process_time()
        for _ in range(pushes):
            detokenizer.push(token)
        return time.process_time() - begin

    first = min(seconds(2000) for _ in range(3))
    for _ in range(60_000):
        detokenizer.push(token)
    assert min(seconds(2000) for _ in range(3)) < 5 * first


def test_reference_encodings_of_the_shared_data():
    path = SHARED / "data/tokenizers/expected/reference_encodings.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path}; set SLIPSTREAM_SHARED")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()][::6]
    for name in ("falcon", "gpt-neox-20b", "llama2", "phi-3-mini"):
        tokenizer = Tokenizer(backend(name))
        for row in rows:
            expected = row["ids"][f"hf/{name}"]
            assert tokenizer.encode(row["text"], special=False) == expected
            assert "".join(streamed(tokenizer, expected, [])) == row["text"]
