"""The load generator's reading of answers: however the bytes are cut, the same facts; whatever they are, no crash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.base import native

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part) + b"0\r\n\r\n"


def read(pieces: list[bytes]):
    """The answer, and how many bytes it took; piece i comes at time i."""
    answer, taken = native.module.Answer(), 0
    for now, piece in enumerate(pieces):
        taken += answer.feed(piece, float(now))
    return answer, taken


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in zip(edges, edges[1:], strict=False)]


words = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=30)


@given(st.lists(words, max_size=6), st.lists(st.integers(0, 10**4), max_size=6), st.lists(st.integers(0, 10**4), max_size=8), st.booleans())
def test_events_are_the_same_however_they_are_cut(texts, chunks, pieces, crlf):
    texts = [f"x{text}" for text in texts]
    end = "\r\n" if crlf else "\n"
    stream = "".join(f"data: {text}{end}: a comment{end}{end}" for text in texts) + f"data: [DONE]{end}{end}"
    whole = HEAD + chunked(*cut(stream.encode(), chunks))
    answer, taken = read(cut(whole, pieces))
    assert taken == len(whole) and answer.complete and answer.keep and answer.status == 200 and not answer.wrong
    assert len(answer.times) == len(texts) and list(answer.times) == sorted(answer.times)
    assert answer.last.decode() == (texts[-1] if texts else "")


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5), st.sampled_from([b"", HEAD, HEAD + b"5\r\ndata:"]))
def test_any_bytes_are_read_or_refused(data, places, before):
    answer, taken = read(cut(before + data, places))
    answer.close()
    assert answer.complete or answer.wrong
    assert 0 <= taken <= len(before + data)


def test_an_event_counts_when_its_empty_line_is_there():
    answer, _ = read([HEAD, b"d\r\ndata: one\ndata", b": two\n\r\n", b"1\r\n\n\r\n", b"0\r\n\r\n"])
    assert answer.wrong == b"a chunk is longer than its size"
    answer, _ = read([HEAD, b"11\r\ndata: one\ndata", b": t\r\n", b"5\r\nwo\n\n\n\r\n", b"0\r\n\r\n"])
    assert answer.complete and list(answer.times) == [3.0] and answer.last == b"one\ntwo"


@pytest.mark.parametrize(
    "head, text",
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\n\r\n", b"wrong"),
        (b"HTTP/1.0 200 OK\r\n\r\n", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 3\r\n\r\n", b"no!"),
    ],
)
def test_bodies_that_are_no_stream_are_kept(head, text):
    answer, taken = read([head + text])
    if not answer.complete:
        answer.close()
    assert answer.complete and answer.text == text and taken == len(head + text) and not answer.times
    assert answer.keep == (b"1.0" not in head and b"close" not in head)


@pytest.mark.parametrize(
    "data, said",
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", b"not an answer of HTTP/1"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n", b"only chunked"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", b"content-length"),
        (HEAD + b"ffffffffffffffffff\r\n", b"a chunk without a size"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20000, b"above 64 KiB"),
        (HEAD + b"a00000\r\n" + b"data: " + b"x" * 5 * 2**20, b"above 4 MiB"),
    ],
)
def test_what_cannot_be_understood_is_named(data, said):
    assert said in read([data])[0].wrong


def test_bytes_after_the_end_are_not_its_own():
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    answer, taken = read([whole + b"HTTP/1.1 200"])
    assert answer.complete and taken == len(whole)
