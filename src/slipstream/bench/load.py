"""Load: requests for completions, sent to any OpenAI-compatible server by the native generator, and what became of each.

Owns what a request says and how an answer is read. When requests are sent is in the orders; what is made of the times is the business of
serving.py. The generator itself (csrc/load.h) is one thread without the GIL: it must not slow the server that it measures.
"""

import json
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import Request, urlopen

from slipstream.base import native
from slipstream.base.errors import BackendError, InputError

SHOWN = 200  # characters of an error that a server sent
ANSWER_SECONDS = 10.0  # to say which models there are


@dataclass(frozen=True, slots=True)
class Order:
    """A request to be sent.

    Attributes:
        prompt: token ids.
        new_tokens: that the answer shall have.
        due: seconds after the beginning before which it is not sent.
        after: events that must have come before, of all answers together, as long as any are under way.
    """

    prompt: Sequence[int]
    new_tokens: int
    due: float = 0.0
    after: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of an order. Times in seconds after the beginning.

    Attributes:
        sent: when its first byte went out; -1 if it never did.
        times: when tokens came; several of them may have come together.
        tokens: that the answer has.
        error: why it does not count; empty if it does.
    """

    sent: float
    times: tuple[float, ...]
    tokens: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Volley:
    """All replies in the order of the orders, the seconds until the last was complete, and the generator's own processor time."""

    replies: list[Reply]
    seconds: float
    cpu: float


class Target:
    """A server to send to.

    Args:
        url: such as http://127.0.0.1:8000; a path before /v1 is kept.
        api_key: what it asks for.
        model: what to ask it for; None: the first that it names.

    Raises:
        InputError: the address cannot be used.
        BackendError: nobody answers there.
    """

    def __init__(self, url: str, api_key: str | None = None, model: str | None = None):
        if native.module is None:
            raise BackendError(f"load tests need the native module: {native.reason}")
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        if parts.scheme != "http" or not parts.hostname:
            raise InputError(f"url={url!r}: must be like http://127.0.0.1:8000; https is not spoken, put it behind a local proxy")
        self.url, self._parts, self._key = url, parts, api_key
        self.port, self.host = _port(url, parts), _address(url, parts)
        self.path = parts.path.rstrip("/").removesuffix("/v1")
        self.model = model or self._first_model()

    def fire(self, orders: Sequence[Order], clients: int, patience: float, limit: float) -> Volley:
        """Sends the orders, by `clients` connections at most, and waits for their answers. Ctrl-C ends it.

        Args:
            patience: seconds without a byte after which an answer is given up.
            limit: seconds for all of them.
        """
        prepared = [(self._request(order), order.due, order.after) for order in orders]
        done = native.module.fire(self.host, self.port, clients, patience, limit, prepared)
        return Volley([reply(report, order) for report, order in zip(done.reports, orders, strict=True)], done.seconds, done.cpu)

    def _headers(self) -> dict[str, str]:
        return {"Content-Type": "application/json", **({"Authorization": f"Bearer {self._key}"} if self._key else {})}

    def _request(self, order: Order) -> bytes:
        asked = {"model": self.model, "prompt": list(order.prompt), "max_tokens": order.new_tokens, "temperature": 0, "ignore_eos": True}
        body = json.dumps({**asked, "stream": True, "stream_options": {"include_usage": True}}, separators=(",", ":")).encode()
        host = f"[{self.host}]" if ":" in self.host else self.host
        headers = {"Host": f"{host}:{self.port}", **self._headers(), "Content-Length": str(len(body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path}/v1/completions HTTP/1.1\r\n{head}\r\n".encode() + body

    def _first_model(self) -> str:
        base = f"http://{self._parts.netloc.rpartition('@')[2]}{self.path}"
        try:
            with urlopen(Request(f"{base}/v1/models", headers=self._headers()), timeout=ANSWER_SECONDS) as answer:
                return json.load(answer)["data"][0]["id"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            what = f"url={self.url!r}: {base}/v1/models names no model ({error}); is a server there, and is the key right?"
            raise BackendError(what) from error


def _port(url: str, parts: SplitResult) -> int:
    try:
        return parts.port or 80
    except ValueError as error:
        raise InputError(f"url={url!r}: {error}") from None


def _address(url: str, parts: SplitResult) -> str:
    try:
        return socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError as error:
        raise InputError(f"url={url!r}: {parts.hostname} is not known here ({error.strerror})") from None


def reply(report: Any, order: Order) -> Reply:
    """Reads what the generator reports. Tokens are those of `usage`, where the server says it, since an event may bring several."""
    answer = report.answer
    error, times = report.error.decode("utf-8", "replace"), answer.times
    if not error and answer.status != 200:
        error = f"HTTP {answer.status}: {answer.text.decode('utf-8', 'replace')[:SHOWN]}"
    if error:
        return Reply(report.sent, tuple(times), 0, error)
    try:
        last = json.loads(answer.last)
        used = last.get("usage") or {}
        choices, said = last.get("choices"), last.get("error")
        tokens = int(used.get("completion_tokens", len(times)))
    except (ValueError, TypeError, AttributeError):
        return Reply(report.sent, tuple(times), 0, f"no stream of events with JSON: {answer.last[:SHOWN] or answer.text[:SHOWN]!r}")
    if used and not choices:
        times = times[:-1]  # the event of `usage` brings no token
    times = times[:tokens]  # nor does one that only says why the text ends
    if said:
        error = f"the server ended it: {json.dumps(said)[:SHOWN]}"
    elif tokens != order.new_tokens or not times:
        error = f"{tokens} tokens came, {order.new_tokens} were asked for; the server must heed ignore_eos"
    return Reply(report.sent, tuple(times), tokens, error)
