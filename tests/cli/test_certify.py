"""`slipstream certify`: against a server that keeps its word, one that does not, and ones that do not answer."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from slipstream.cli.certify import NOISE, PROMPTS, REQUESTS, difference
from slipstream.cli.main import app

HOLD = 0.05  # seconds that an answer takes, so that requests overlap


class Fake(ThreadingHTTPServer):
    """Answers like OpenAI; `says(prompt, running)` makes the text, where `running` counts the requests inside."""

    daemon_threads, request_queue_size = True, 64

    def __init__(self, says):
        super().__init__(("127.0.0.1", 0), Handler)
        self.says, self.running, self.lock, self.seen = says, 0, threading.Lock(), []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.seen(None)
        self.answer({"object": "list", "data": [{"id": "fake-1"}]})

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen(body)
        with server.lock:
            server.running += 1
        time.sleep(HOLD)
        text = server.says(body["prompt"], server.running)
        with server.lock:
            server.running -= 1
        if isinstance(text, int):
            self.send_error(text, "no")
        else:
            self.answer({"choices": [{"text": text}]})

    def seen(self, body):
        with self.server.lock:
            self.server.seen.append((self.path, self.headers["Authorization"], body))

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        return None


@pytest.fixture
def certify():
    """Runs the command against a fake server; gives the result and the requests that arrived."""
    servers = []

    def run(says, *options):
        server = Fake(says)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        done = CliRunner().invoke(app, ["certify", f"http://127.0.0.1:{server.server_port}/", *options])
        return done, server.seen

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def constant(prompt, running):
    return f"{prompt} and so on"


def test_a_server_that_says_the_same(certify):
    done, seen = certify(constant, "--api-key", "secret", "--tokens", "9")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("PASS: 4 of 4") == 3 and "model fake-1" in done.stdout and done.stdout.splitlines()[-1].startswith("certified")
    assert len(seen) == REQUESTS and {key for _, key, _ in seen} == {"Bearer secret"} and "secret" not in done.output
    bodies = [body for path, _, body in seen if path == "/v1/completions"]
    assert len(bodies) == REQUESTS - 1 and all((body["temperature"], body["max_tokens"]) == (0, 9) for body in bodies)
    assert len({body["seed"] for body in bodies}) == 1


def test_a_server_whose_texts_depend_on_its_neighbours(certify):
    done, seen = certify(lambda prompt, running: "the same until here" + (", then not" if running > 1 else ", and then"), "--model", "m")
    assert done.exit_code == 1, done.output
    assert "alone, again  PASS" in done.stdout and "all at once   FAIL" in done.stdout and "under load    FAIL" in done.stdout
    assert "from character 21: 'ame until here, and then' alone, 'ame until here, then not' now" in done.stdout
    assert "not certified" in done.stdout and len(seen) == REQUESTS - 1


def test_a_server_that_never_says_the_same(certify):
    count = iter(range(1000))
    done, _ = certify(lambda prompt, running: f"number {next(count)}")
    assert done.exit_code == 1 and "alone, again  FAIL: 0 of 4" in done.stdout and "12 of 12 texts" in done.stdout


def test_noise_that_is_refused_is_said(certify):
    done, _ = certify(lambda prompt, running: 429 if prompt in NOISE else "text")
    assert done.exit_code == 0 and f"{len(NOISE)} of its {len(NOISE)} requests failed" in done.stdout and "status 429" in done.stdout


@pytest.mark.parametrize(("says", "named"), [(lambda *_: 401, "give --api-key"), (lambda *_: 500, "status 500"), (lambda *_: "", "empty")])
def test_a_server_that_does_not_answer(certify, says, named):
    done, seen = certify(says)
    assert done.exit_code == 2 and named in done.stderr and len(seen) <= 1 + 2 * len(PROMPTS)


@pytest.mark.parametrize(("url", "named"), [("localhost:1", "must begin with http://"), ("http://127.0.0.1:1", "is the address right")])
def test_an_address_that_is_none(url, named):
    done = CliRunner().invoke(app, ["certify", url])
    assert done.exit_code == 2 and named in done.stderr


def test_where_texts_part():
    assert difference(1, "same", "same") == []
    assert difference(2, "abc", "abcd") == ["prompt 2, from character 3: 'abc' alone, 'abcd' now"]
