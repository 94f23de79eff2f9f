"""Health, metrics, version, and the key on every route but liveness."""

import re
import time

import openai
import pytest

from slipstream.base import native
from tests.server.harness import LONG, send, serving


@pytest.fixture(scope="module")
def locked(model, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("locked") / "log", model, "--max-len", "512", "--api-key", "secret", "--drain", "1") as running:
        yield running


def test_health_and_version(server):
    assert server.get("/health/live").json() == {"status": "live"}
    assert server.get("/health/ready").json() == {"status": "ready"}
    found = server.get("/version").json()
    assert found["version"] and "kv-" in found["numerics"]
    assert ("reference" in found["numerics"]) == (native.module is None), "the server runs other kernels than these tests"


def test_metrics_count_what_happened(server):
    server.until(server.idle)
    names = {
        "prompt": "prompt_tokens_total", "made": "generation_tokens_total", "first": "time_to_first_token_seconds_count",
        "gap": "inter_token_latency_seconds_count", "whole": "e2e_request_latency_seconds_count",
        "queue": "request_queue_time_seconds_count", "ended": "request_success_total", "length": "request_generation_tokens_sum",
    }  # fmt: skip
    before = {key: server.metric(name) for key, name in names.items()}
    steps, hits = server.metric("engine_steps_total"), server.metric("prefix_cache_hits_total")
    prompt = [7] * 64
    for _ in range(2):
        usage = server.post("/v1/completions", prompt=prompt, max_tokens=9, n=2, ignore_eos=True, min_tokens=9).json()["usage"]
        assert usage["completion_tokens"] == 18
    server.until(lambda: server.metric("engine_steps_total") >= steps + 18 and server.metric("prefix_cache_hits_total") > hits)
    gained = {key: server.metric(name) - before[key] for key, name in names.items()}
    assert gained == {"prompt": 128, "made": 36, "first": 4, "gap": 32, "whole": 4, "queue": 4, "ended": 4, "length": 36}
    assert server.metric("engine_step_seconds_count") == server.metric("engine_steps_total")
    assert server.metric("engine_ready") == 1 and server.metric("engine_last_progress_seconds") < 1


def test_gauges_follow_what_runs(server):
    connection = send(server, "/v1/completions", {"prompt": "the quick", **LONG, "n": 3})
    server.until(lambda: server.metric("num_requests_running") == 3)
    server.until(lambda: server.metric("kv_cache_usage_perc") > 0 and server.metric("generation_tokens_per_second") > 0)
    assert 0 < server.metric("share_of_limit") < 1.5
    assert server.metric("limit_tokens_per_second") > server.metric("generation_tokens_per_second") / 1.5
    connection.close()
    server.until(lambda: server.metric("num_requests_running") == 0)


def test_metrics_are_in_the_exposition_format(server):
    from prometheus_client.parser import text_string_to_metric_families

    response = server.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert len(families) > 20 and all(family.name.startswith("slipstream_") for family in families)
    assert {sample.labels["model_name"] for family in families for sample in family.samples} == {"tiny"}


def test_every_route_but_liveness_needs_the_key(locked):
    document = locked.get("/openapi.json").json()
    routes = [(method, re.sub(r"\{.*\}", "x", path)) for path, methods in document["paths"].items() for method in methods]
    assert len(routes) >= 12
    for method, path in [*routes, ("get", "/openapi.json"), ("get", "/nothing"), ("post", "/health/live/x")]:
        for header in (None, "Bearer wrong", "Bearer", "secret", "Basic !!", "Bearer secret2", "Digest secret"):
            response = locked.client.request(method, path, headers={"Authorization": header or ""})
            expected = 200 if path == "/health/live" else 401
            assert response.status_code == expected, (method, path, header)
            if expected == 401:
                assert response.json()["error"]["code"] == "invalid_api_key"
    assert locked.get("/v1/models").status_code == 200


def test_a_browser_is_asked_for_the_key_and_sends_it_as_a_password(locked):
    refused = locked.client.get("/", headers={"Authorization": ""})
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    basic = {"Authorization": "Basic OnNlY3JldA=="}  # ":secret"
    assert locked.client.get("/", headers=basic).status_code == 200
    assert locked.client.get("/status", headers=basic).status_code == 200


def test_the_client_with_and_without_the_key(locked):
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="secret", max_retries=0) as client:
        assert client.models.list().data[0].id == "model"
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong", max_retries=0) as client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def test_the_sockets_of_the_two_processes_are_private_and_gone(locked):
    """The folder is unlinked as soon as both ends are connected: nothing is left for others to find."""
    import tempfile
    from pathlib import Path

    names = [c.laddr for c in locked.engine.net_connections("unix")] + [c.raddr for c in locked.engine.net_connections("unix")]
    assert not [name for name in names if name and Path(str(name)).exists() and str(name).startswith(tempfile.gettempdir())]
    assert not [c for c in locked.engine.net_connections("inet") if c.status == "LISTEN"]


def test_short_answers_do_not_wait_for_acknowledgements(server):
    """Head and body go out in two writes; with Nagle's algorithm the second would wait 40 ms for the client's delayed ACK."""
    times = []
    for _ in range(12):
        began = time.monotonic()
        assert server.post("/detokenize", tokens=[5]).status_code == 200
        times.append(time.monotonic() - began)
    assert sorted(times)[len(times) // 3] < 0.03, times
