"""What clients see when something goes wrong: clients that leave or do not read, full queues, dead, frozen and broken engines."""

import json
import os
import re
import signal
import socket
import time

import httpx
import psutil
import pytest

from tests.server.harness import LONG, attempt, events, send, serving

COMPLETIONS = "/v1/completions"
READY_FALLS = 2.0  # seconds, promised


def begin(server, **body) -> socket.socket:
    """A request that runs for long; returns when its first text has come."""
    connection = send(server, COMPLETIONS, {"prompt": "the quick", **LONG, **body})
    seen = b""
    while b'"text":' not in seen:
        part = connection.recv(65536)
        assert part, seen
        seen += part
    return connection


def rest(connection: socket.socket) -> str:
    """All that still comes on a connection, in its last part."""
    seen = b""
    while part := connection.recv(65536):
        seen = (seen + part)[-20_000:]
    connection.close()
    return seen.decode("utf-8", "replace")


def last_event(connection: socket.socket) -> dict:
    """The last event of a stream that somebody else ends."""
    return json.loads(re.findall(r"data: (\{.*\})", rest(connection))[-1])


# Clients that leave


def test_leaving_in_a_stream_frees_the_pages(server):
    server.until(server.idle)
    before = server.metric("requests_aborted_total", reason="client")
    connection = begin(server, n=3)
    server.until(lambda: server.status()["running"] == 3)
    connection.close()
    took = server.until(server.idle, 2)
    assert took < 1, took  # beats come four times a second; the engine itself needs one step, see test_reception
    assert server.metric("requests_aborted_total", reason="client") == before + 1


def test_leaving_without_a_stream_and_from_the_queue(server):
    body = {"prompt": "the quick", **LONG, "stream": False}
    connections = [send(server, COMPLETIONS, body) for _ in range(10)]
    server.until(lambda: server.status()["running"] == 8 and server.status()["waiting"] == 2)
    for connection in reversed(connections):
        connection.close()
    server.until(server.idle, 3)


def test_leaving_while_the_prompt_is_read(server):
    """The client goes at once, and its order is anywhere between the socket and the loop."""
    for _ in range(20):
        send(server, COMPLETIONS, {"prompt": "the quick brown fox " * 500, **LONG}).close()
    server.until(server.idle, 5)


# Clients that do not read


def test_a_client_that_does_not_read_is_cut_and_others_are_not(server):
    """Its answer is far larger than what sockets hold: 20 likely tokens at each place are a kilobyte."""
    body = {"prompt": "the quick", **LONG, "logprobs": 20, "n": 2}
    before = server.metric("requests_aborted_total", reason="slow_reader")
    memory = psutil.Process(server.process.pid).memory_info().rss
    lazy = send(server, COMPLETIONS, body, receive_buffer=4096)
    server.until(lambda: server.status()["running"] == 2)
    assert server.post(COMPLETIONS, prompt="the", max_tokens=20, ignore_eos=True).json()["usage"]["completion_tokens"] == 20
    server.until(lambda: server.metric("requests_aborted_total", reason="slow_reader") == before + 1, 40)
    assert psutil.Process(server.process.pid).memory_info().rss - memory < 150 * 2**20
    server.until(server.idle, 3)
    lazy.close()


# More than there is room for


def test_a_full_queue_is_429_with_retry_after(server):
    connections = [send(server, COMPLETIONS, {"prompt": "the quick", **LONG, "n": 12}) for _ in range(6)]  # 8 + 64 texts
    server.until(lambda: server.status()["waiting"] == 64)
    refused = server.post(COMPLETIONS, prompt="the", max_tokens=1)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    error = refused.json()["error"]
    assert error["code"] == "server_overloaded" and error["type"] == "rate_limit_error" and "64" in error["message"]
    assert server.ready() and server.metric("admission_rejections_total", reason="server_overloaded") > 0
    for connection in connections:
        connection.close()
    server.until(server.idle, 10)
    assert server.post(COMPLETIONS, prompt="the", max_tokens=1).status_code == 200


# The engine fails


def not_ready(server) -> bool:
    try:
        return server.get("/health/ready").status_code == 503
    except httpx.TransportError:
        return True  # it has left already


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_engine_that_dies_or_freezes(own, how):
    with own("--stall", "3") as server:
        streaming = begin(server)
        whole = send(server, COMPLETIONS, {"prompt": "the", **LONG, "stream": False})
        server.until(lambda: server.status()["running"] == 2)
        engine = server.engine
        engine.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        assert server.until(lambda: not_ready(server), READY_FALLS) < READY_FALLS
        if how == "stopped":
            assert server.get("/health/live").status_code == 200
            assert server.post(COMPLETIONS, prompt="x").json()["error"]["code"] == "engine_unavailable"
        error = last_event(streaming)["error"]
        assert error["code"] == "engine_error" and error["type"] == "server_error"
        assert rest(whole).startswith("HTTP/1.1 500")
        assert server.process.wait(10) == 70
        assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_restart_brings_a_dead_engine_back(own):
    with own("--restart") as server:
        text = server.post(COMPLETIONS, prompt="the", max_tokens=5, temperature=0).json()["choices"][0]["text"]
        streaming = begin(server)
        first = server.engine
        first.kill()
        server.until(lambda: not_ready(server), READY_FALLS, 0.01)
        server.until(lambda: server.post(COMPLETIONS, prompt="the").json()["error"]["code"] == "model_loading", READY_FALLS, 0.01)
        assert last_event(streaming)["error"]["code"] == "engine_error"
        server.until(server.ready, 60)
        assert server.engine.pid != first.pid
        assert server.post(COMPLETIONS, prompt="the", max_tokens=5, temperature=0).json()["choices"][0]["text"] == text
        engine = server.engine
        assert server.stop() == 0 and not engine.is_running() and "Fatal" not in server.log.read_text()


def test_a_pause_of_the_whole_server_is_nobody_s_fault(server):
    """Ctrl-Z, a suspended laptop: both processes stop, both go on."""
    streaming = begin(server)
    pair = (psutil.Process(server.process.pid), server.engine)
    for process in pair:
        process.suspend()
    time.sleep(2.5)
    for process in reversed(pair):
        process.resume()
    assert server.ready() and streaming.recv(100)
    streaming.close()
    server.until(server.idle, 5)


def test_a_front_that_is_killed_takes_the_engine_along(own):
    with own() as server:
        engine = server.engine
        server.process.kill()
        engine.wait(5)


# The server ends


def test_sigterm_drains(own):
    with own("--drain", "60") as server:
        connection = send(server, COMPLETIONS, {"prompt": "the quick", **LONG, "max_tokens": 4000, "stream": False})
        server.until(lambda: server.status()["running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: not_ready(server), 1)
        refused = server.post(COMPLETIONS, prompt="x")
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "server_draining" and refused.headers["retry-after"]
        assert server.get("/health/live").status_code == 200
        answer = rest(connection)
        assert '"completion_tokens": 4000' in answer and '"finish_reason": "length"' in answer
        assert server.process.wait(10) == 0


def test_the_drain_limit_ends_what_still_runs(own):
    with own("--drain", "0.5") as server:
        connection, engine = begin(server), server.engine
        server.process.send_signal(signal.SIGINT)
        assert last_event(connection)["error"]["code"] == "server_draining"
        assert server.process.wait(10) == 0 and not engine.is_running()


def test_a_second_signal_ends_it_at_once(own):
    with own("--drain", "60") as server:
        begin(server)
        engine = server.engine
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: not_ready(server), 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == 128 + signal.SIGTERM
        assert not psutil.pid_exists(engine.pid) or engine.wait(1) is None


# Beginnings


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("/nowhere/at/all", (), "/nowhere/at/all"),
        ("dummy:tiny:fp32", ("--host", "256.0.0.1"), "cannot listen"),
        ("dummy:tiny:fp32", ("--api-key", ""), "api_key"),
        ("dummy:tiny:fp32", ("--device", "gpu"), "device='gpu': must be cpu, cuda or cuda:N"),
        ("dummy:tiny:fp32", ("--policy", "fcsf"), "did you mean 'fcfs'"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exit_2(model, options, said):
    done = attempt(model, "--port", "0", *options)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr, done.stderr


def test_a_port_in_use_is_named(server):
    done = attempt("dummy:tiny:fp32", "--port", str(server.port))
    assert done.returncode == 2 and f"port={server.port}" in done.stderr


def test_a_full_disk_for_logs_changes_nothing(model, tmp_path):
    """Everything the server writes goes to /dev/full, where every write fails."""
    with serving(tmp_path / "log", model, "--max-len", "256", out="/dev/full") as server:
        assert server.post(COMPLETIONS, prompt="the", max_tokens=3).status_code == 200
        assert server.post(COMPLETIONS, prompt="the", max_token=3).status_code == 400
        told = {"stream": True, "stream_options": {"include_usage": True}}
        assert events(server.post(COMPLETIONS, prompt="the", max_tokens=3, ignore_eos=True, **told))[-1]["usage"]["completion_tokens"] == 3
        assert server.stop() in (0, 120)  # 120: Python says at exit that its last lines were lost


def test_the_front_carries_no_torch(server):
    libraries = {os.path.basename(entry.path) for entry in psutil.Process(server.process.pid).memory_maps()}
    assert not [name for name in libraries if "torch" in name]
    assert [name for entry in server.engine.memory_maps() if "torch" in (name := os.path.basename(entry.path))]
