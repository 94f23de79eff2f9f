"""The load generator against a server that follows a script: connections, times, and every way to fail."""

import contextlib
import os
import signal
import socket
import threading
import time

import pytest

from slipstream.base import native
from slipstream.base.errors import BackendError, InputError
from slipstream.bench.load import Order, Target

pytestmark = pytest.mark.skipif(native.module is None, reason=f"no native module: {native.reason}")

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def event(text: str) -> bytes:
    data = f"data: {text}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(data), data)


def token(text: str = "a") -> bytes:
    return event(f'{{"choices":[{{"text":"{text}"}}],"usage":null}}')


def usage(tokens: int) -> bytes:
    return event(f'{{"choices":[],"usage":{{"completion_tokens":{tokens}}}}}') + event("[DONE]") + END


class Script:
    """Answers every request on every connection with the next entry of a list: bytes are sent, numbers are seconds to wait, None
    closes the connection. The last entry is repeated. Attributes: bodies that came, `connections` made."""

    def __init__(self, *answers: list):
        self.answers, self.bodies, self.connections = list(answers), [], 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/some/v1/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while body := self._read(connection):
                with self._lock:
                    self.bodies.append(body)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                for part in answer:
                    if part is None:
                        return
                    if isinstance(part, bytes):
                        connection.sendall(part)
                    else:
                        time.sleep(part)

    def _read(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return b""
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


def fire(script: Script, orders: list[Order], clients: int = 1, patience: float = 5, limit: float = 10, key: str | None = None):
    return Target(script.url, key, model="m").fire(orders, clients, patience, limit)


def test_connections_are_kept_and_tokens_timed():
    answer = [STREAM, 0.05, token(), 0.1, token(), usage(2)]
    with Script(answer) as script:
        done = fire(script, [Order([1, 2, 3], 2)] * 6, clients=2, key="secret")
        assert script.connections == 2 and len(script.bodies) == 6
        head, _, body = script.bodies[0].partition(b"\r\n\r\n")
        assert head.startswith(b"POST /some/v1/completions HTTP/1.1\r\n") and b"Authorization: Bearer secret" in head
        assert b'"prompt":[1,2,3],"max_tokens":2' in body and b'"ignore_eos":true' in body
    assert [reply.error for reply in done.replies] == [""] * 6 and {reply.tokens for reply in done.replies} == {2}
    for reply in done.replies:
        first, second = reply.times
        assert first - reply.sent >= 0.05 and second - first >= 0.09
    assert 3 * 0.15 <= done.seconds < 5 and 0 < done.cpu < 0.1 * done.seconds


def test_requests_wait_for_their_time_and_for_events():
    with Script([STREAM, token(), 0.1, token(), usage(2)]) as script:
        orders = [Order([1], 2, due=0.05), Order([2], 2, due=0.2), Order([3], 2, after=5)]  # each answer has three events, usage included
        done = fire(script, orders, clients=8)
    sent = [reply.sent for reply in done.replies]
    assert 0.05 <= sent[0] < 0.2 <= sent[1] and sent[2] >= max(time for reply in done.replies[:2] for time in reply.times)


def test_a_request_does_not_wait_for_events_that_cannot_come():
    with Script([STREAM, token(), token(), usage(2)]) as script:
        done = fire(script, [Order([1], 2), Order([2], 2, after=100)], clients=2)
    assert [reply.error for reply in done.replies] == ["", ""] and done.seconds < 5


def test_an_old_connection_that_the_server_closed_is_made_again():
    with Script([STREAM, token(), usage(1), None]) as script:
        done = fire(script, [Order([1], 1, due=0.1 * number) for number in range(4)])
        assert [reply.error for reply in done.replies] == [""] * 4 and script.connections == 4


@pytest.mark.parametrize(
    "answer, said",
    [
        ([b"HTTP/1.1 429 Busy\r\ncontent-length: 9\r\n\r\ntoo much!"], "HTTP 429: too much!"),
        ([STREAM, token(), None], "closed before the answer was complete"),
        ([STREAM, token(), 1.0], "nothing came for too long"),
        ([STREAM, token(), event('{"error":{"message":"broke"}}'), END], "the server ended it"),
        ([STREAM, token(), usage(1)], "1 tokens came, 2 were asked for"),
        ([STREAM, event("what?"), END], "no stream of events with JSON"),
        ([b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"], "no stream of events with JSON"),
        ([STREAM, token(), token(), usage(2) + b"more"], "bytes after the end"),
    ],
)
def test_what_fails_is_named_and_the_rest_goes_on(answer, said):
    with Script([STREAM, token(), token(), usage(2)], answer, [STREAM, token(), token(), usage(2)]) as script:
        done = fire(script, [Order([1], 2)] * 3, patience=0.4)
    assert [bool(reply.error) for reply in done.replies] == [False, True, False] and said in done.replies[1].error


def test_a_connection_is_made_again_only_once():
    with Script([None]) as script:
        [reply] = fire(script, [Order([1], 2)]).replies
        assert "closed before the answer was complete" in reply.error and script.connections == 1
    with Script([STREAM, token(), usage(1)], [None]) as script:
        done = fire(script, [Order([1], 1)] * 2)
        assert [bool(reply.error) for reply in done.replies] == [False, True] and script.connections == 2


def test_an_event_without_a_token_is_no_token():
    ending = event('{"choices":[{"text":"","finish_reason":"length"}],"usage":{"completion_tokens":2}}')
    with Script([STREAM, token(), token(), ending, END]) as script:
        [reply] = fire(script, [Order([1], 2)]).replies
    assert not reply.error and len(reply.times) == 2


def test_the_limit_ends_what_runs_and_what_waits():
    with Script([STREAM, token(), 5]) as script:
        done = fire(script, [Order([1], 2)] * 3, limit=0.3)
    assert ["not complete" in done.replies[0].error, "not begun" in done.replies[1].error, done.replies[2].sent] == [True, True, -1]
    assert 0.3 <= done.seconds < 2


def test_an_interrupt_ends_the_run():
    with Script([STREAM, token(), 5]) as script:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fire(script, [Order([1], 2)])
    assert time.monotonic() - began < 3


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    [reply] = Target(f"127.0.0.1:{port}", model="m").fire([Order([1], 1)], 1, 5, 5).replies
    assert "refused" in reply.error
    with pytest.raises(BackendError, match="names no model"):
        Target(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("url", ["https://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://no.such.host.invalid"])
def test_addresses_that_cannot_be_used(url):
    with pytest.raises(InputError, match="url="):
        Target(url, model="m")
