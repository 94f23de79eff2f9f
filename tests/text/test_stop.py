"""StopStrings and TextStream against brute force."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.base.errors import InputError
from slipstream.text import StopStrings, TextStream, Tokenizer
from tests.text.vocabularies import backend

TEXTS = st.text(alphabet="ab\u0301é", max_size=14)
PLAUSIBLE = ["a", "ab", " a", "\ufffd\ufffd", "é", "th", "e "]
STOPS = st.lists(st.text(alphabet="ab\u0301é", min_size=1, max_size=5), max_size=4)


def brute(text: str, stops: list[str]) -> tuple[str, str | None]:
    """(text, hit): the earliest end, then the longest."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            hit = max(found, key=len)
            return text[: end - len(hit)], hit
    return text, None


def longest_beginning(text: str, stops: list[str]) -> int:
    """How much of the end of `text` begins a stop string."""
    return max((size for stop in stops for size in range(len(stop)) if size and text.endswith(stop[:size])), default=0)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(TEXTS, max_size=6), STOPS)
def test_any_split_gives_the_text_of_brute_force(parts, stops):
    watch = StopStrings(stops)
    shown, seen = "", ""
    for part in parts:
        emitted, hit = watch.feed(part)
        shown, seen = shown + emitted, seen + part
        if hit is None:
            assert len(seen) - len(shown) == longest_beginning(seen, stops), "held back: exactly what may begin a stop string"
            assert len(watch.held) <= max((len(stop) for stop in stops), default=1) - 1
    assert (shown + watch.flush(), watch.hit) == brute("".join(parts), stops)


@pytest.mark.parametrize(
    ("text", "stops", "shown", "hit"),
    [
        ("xabcd", ["abcd", "bc"], "xa", "bc"),  # earliest end
        ("xabc", ["bc", "abc"], "x", "abc"),  # same end: the longest
        ("aaab", ["aab"], "a", "aab"),  # the automaton falls back inside
        ("a\n\nb", ["\n\n"], "a", "\n\n"),
        ("abab", ["abac"], "abab", None),
        ("abc", [], "abc", None),
    ],
)
def test_which_stop_counts(text, stops, shown, hit):
    for split in range(len(text) + 1):
        watch = StopStrings(stops)
        out = watch.feed(text[:split])[0] + watch.feed(text[split:])[0] + watch.flush()
        assert (out, watch.hit) == (shown, hit)


def test_nothing_comes_after_a_hit():
    watch = StopStrings(["b"])
    assert watch.feed("ab") == ("a", "b")
    assert watch.feed("more") == ("", "b")
    assert watch.flush() == ""


@pytest.mark.parametrize("stop", ["", 3, None])
def test_bad_stops_are_refused(stop):
    with pytest.raises(InputError, match="stop="):
        StopStrings([stop])


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 300), max_size=20), st.lists(st.sampled_from(PLAUSIBLE), max_size=3))
def test_stream_is_decode_cut_at_the_stop(name, raw, stops):
    tokenizer = Tokenizer(backend(name))
    tokens = [token % tokenizer.vocab_size for token in raw]
    stream = TextStream(tokenizer, stops)
    shown = ""
    for token in tokens:
        delta, stopped = stream.push(token)
        shown += delta
        assert stopped == (stream.hit is not None)
        if stopped:
            break
    shown += stream.flush()
    assert shown == stream.text
    assert (shown, stream.hit) == brute(tokenizer.decode(tokens), stops)


def test_stream_takes_the_prompt_into_account():
    tokenizer = Tokenizer(backend("byte_fallback"))
    tokens = tokenizer.encode("a", special=False)
    for prompt, text in (([], "a"), (tokens, " a")):
        stream = TextStream(tokenizer, prompt=prompt)
        assert "".join(stream.push(token)[0] for token in tokens) + stream.flush() == text
