"""The recipe of the built-in model, on a book of a few kilobytes."""

import gzip
import random

import pytest
import torch
from safetensors.torch import load_file

from slipstream import LLM, InputError, SamplingParams
from slipstream.train import baselines, demo
from slipstream.train.books import read_book, unwrap

TITLE = "alice-s-adventures-in-wonderland"
RECIPE = demo.Recipe(size="tiny", tokens=16384, rows=4, length=32, long_length=64, vocab=300, seed=3)


@pytest.fixture(autouse=True)
def one_thread():
    """Bitwise comparisons of training runs: torch splits sums by threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setitem(
        demo.SIZES, "tiny", dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
    )
    rng = random.Random(1)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "slept", "while", "it", "rained"]
    paragraphs = [" ".join(rng.choice(words) for _ in range(40)) + "." for _ in range(60)]
    path = tmp_path / f"{TITLE}.txt.gz"
    text = "\n\n".join([*paragraphs[:50], "CHAPTER XII. Alice’s Evidence", *paragraphs[50:]])
    path.write_bytes(gzip.compress(text.encode()))
    return path


def test_training_learns_and_its_result_runs(book, tmp_path):
    lines = []
    report = demo.run([book], tmp_path / "out", RECIPE, say=lines.append)
    assert report["bits_per_byte"] < 4, "no better than guessing letters"
    assert set(report["baselines_bits_per_byte"]) >= {"gzip -9", "bzip2 -9"}
    assert report["books"][0]["held_out"] is True
    llm = LLM(tmp_path / "out")
    output = llm.generate("the cat", SamplingParams(max_tokens=8, temperature=0))[0]
    assert output.prompt_token_ids[0] == 0, "every text begins with the start token, as in training"
    assert output.outputs[0].text.strip()


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(book, tmp_path, monkeypatch):
    demo.run([book], tmp_path / "whole", RECIPE, say=lambda line: None)
    step, count = demo.train_step, 0

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 13:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(demo, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo.run([book], tmp_path / "halved", RECIPE, say=lambda line: None)
    demo.run([book], tmp_path / "halved", RECIPE, say=lambda line: None)
    whole, halved = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "halved"))
    assert all(torch.equal(whole[name], halved[name]) for name in whole)


def test_a_sibling_shares_the_tokenizer_of_its_teacher(book, tmp_path):
    from dataclasses import replace

    demo.run([book], tmp_path / "teacher", RECIPE, say=lambda line: None)
    demo.run([book], tmp_path / "pupil", replace(RECIPE, distil=0.7, tokens=512), teacher=tmp_path / "teacher", say=lambda line: None)
    assert (tmp_path / "teacher/tokenizer.json").read_bytes() == (tmp_path / "pupil/tokenizer.json").read_bytes()


def test_held_out_text_is_not_trained_on(book, tmp_path):
    split = read_book(book)
    assert "Alice's Evidence" in split.held_out and "Alice's Evidence" not in split.train
    other = tmp_path / f"{TITLE}.txt"
    other.write_text("A different edition.")
    with pytest.raises(InputError, match="held-out chapter"):
        read_book(other)


def test_unwrapping_keeps_verse_and_joins_prose():
    prose = "It was the best of times, it was the worst of times, it was\nthe age of wisdom -- it was the age of foolishness."
    assert unwrap(prose) == "It was the best of times, it was the worst of times, it was the age of wisdom—it was the age of foolishness.\n"
    assert unwrap("How doth the little\ncrocodile\n\n\n* * *\n\nImprove") == "How doth the little\ncrocodile\n\nImprove\n"


def test_a_longer_ngram_memory_predicts_a_repeated_text_better():
    text = b"abracadabra " * 50
    assert baselines.byte_ngram(text, text, 4) < 0.3 < baselines.byte_ngram(text, text, 1)
    assert baselines.byte_ngram(b"", b"xyz", 1) == pytest.approx(8.0)
