"""Real servers for tests: a subprocess on 127.0.0.1, as a user starts it, and raw connections that behave badly."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from tests.tools.package import environment

STARTED = 60.0  # seconds for a start on a busy machine
LONG = {"max_tokens": 30000, "ignore_eos": True, "temperature": 0, "stream": True}  # a text that does not end while a test looks


@dataclass
class Running:
    """A server process under test."""

    process: subprocess.Popen
    url: str
    log: Path
    key: str | None = None
    client: httpx.Client = field(init=False)

    def __post_init__(self):
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        self.client = httpx.Client(base_url=self.url, headers=headers, timeout=60)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def post(self, path: str, **body) -> httpx.Response:
        return self.client.post(path, json=body)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def status(self) -> dict:
        return self.get("/status").json()

    def metric(self, name: str, **labels: str) -> float:
        """A sample of /metrics; 0 if there is none."""
        total = 0.0
        for line in self.get("/metrics").text.splitlines():
            found = re.match(rf"slipstream_{name}(?:\{{(.*)\}})? (\S+)$", line)
            if found and all(f'{key}="{value}"' in (found.group(1) or "") for key, value in labels.items()):
                total += float(found.group(2))
        return total

    @property
    def engine(self) -> psutil.Process:
        """The engine process."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def ready(self) -> bool:
        return self.get("/health/ready").status_code == 200

    def until(self, condition, seconds: float = 20.0, every: float = 0.02) -> float:
        """Waits for a condition. Returns how long it took."""
        began = time.monotonic()
        while not condition():
            log = self.log.read_text()[-3000:] if self.log.is_file() else ""
            assert time.monotonic() - began < seconds, f"not within {seconds} s; log:\n{log}"
            time.sleep(every)
        return time.monotonic() - began

    def idle(self) -> bool:
        """Nothing runs or waits, and no page is held by a text."""
        now = self.status()
        return now["running"] == 0 and now["waiting"] == 0 and now["used"] == 0

    def stop(self) -> int:
        """Ends it with SIGTERM. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


@contextlib.contextmanager
def serving(log: Path, model: str, *options: str, out: str | None = None) -> Iterator[Running]:
    """A server of `model` with `options`, ready; gone afterwards, whatever happened. It writes into `log`, or to `out`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "slipstream.cli.main", "serve", model, "--port", str(port), "--threads", "1", *options]
    key = options[options.index("--api-key") + 1] if "--api-key" in options else None
    with open(out or log, "ab") as lines:
        process = subprocess.Popen(command, stdout=lines, stderr=lines, env=environment())
    running = Running(process, f"http://127.0.0.1:{port}", log, key)
    family = []
    try:
        running.until(lambda: process.poll() is not None or answers(running), STARTED, 0.1)
        assert process.poll() is None, log.read_text()
        family = psutil.Process(process.pid).children()
        yield running
    finally:
        running.client.close()
        process.kill()
        process.wait()
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.wait(5)


def answers(running: Running) -> bool:
    try:
        return running.ready()
    except httpx.TransportError:
        return False


def send(running: Running, path: str, body: dict, *, receive_buffer: int | None = None) -> socket.socket:
    """Sends a request on a bare connection and reads nothing; the caller closes it, politely or not."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", running.port))
    data = json.dumps(body).encode()
    key = f"Authorization: Bearer {running.key}\r\n" if running.key else ""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n{key}Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def events(response: httpx.Response) -> list[dict]:
    """The events of a finished stream, [DONE] left out."""
    lines = [line[6:] for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def attempt(*arguments: str) -> subprocess.CompletedProcess:
    """A server that is expected to give up by itself."""
    command = [sys.executable, "-m", "slipstream.cli.main", "serve", *arguments, "--threads", "1"]
    return subprocess.run(command, capture_output=True, text=True, timeout=STARTED, env=environment())
