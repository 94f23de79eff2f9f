"""A real trained checkpoint: stories260K continues the beginning of a text exactly as its author documents."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from slipstream.model import load_model
from tests.model.paged import Paged, Rows
from tests.tools import llama2c

BOS = 1


@pytest.fixture(scope="module")
def stories(shared, tmp_path_factory) -> Path:
    source, out = shared / "data/checkpoints/stories260K", tmp_path_factory.mktemp("stories") / "stories260K"
    llama2c.convert(source / "stories260K_legacy_f32.bin", source / "tok512.bin", out)
    return out


def test_greedy_text(stories, shared, kernels):
    expected = (shared / "data/checkpoints/stories260K/expected_greedy.txt").read_text().rstrip("\n")
    tokenizer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    decoder = load_model(stories, kernels, max_rows=1, max_logit_rows=1)
    assert decoder.spec.parameters() == 260032
    paged, tokens, text = Paged(decoder, pages=32, page_size=16), [BOS], ""
    while len(text) < len(expected):
        (logits,) = paged.step(Rows(0, tokens[-1:]))
        tokens.append(int(torch.argmax(logits[0])))
        text = tokenizer.decode(tokens)
        assert expected.startswith(text) or text.startswith(expected), text
    assert text == expected


def test_tokenizer_round_trip(stories, shared):
    text = (shared / "data/checkpoints/stories260K/expected_greedy.txt").read_text()
    tokenizer = Tokenizer.from_file(str(stories / "tokenizer.json"))
    encoded = tokenizer.encode(text)
    assert encoded.ids[0] == BOS and len(encoded.ids) < len(text) / 2
    assert tokenizer.decode(encoded.ids) == text
    assert tokenizer.decode(tokenizer.encode("Zoë → ∑\n").ids) == "Zoë → ∑\n"
