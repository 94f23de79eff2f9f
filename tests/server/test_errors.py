"""Every mistake a client can make has its status, OpenAI's shape and a message that says what to do."""

import openai
import pytest

from tests.server.conftest import CONTEXT

PROMPT = {"prompt": "the quick"}
TALK = {"messages": [{"role": "user", "content": "the"}]}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def shaped(response, status: int) -> dict:
    """The error of a response, whose shape is checked."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json" and response.headers["x-request-id"]
    (key,) = response.json()
    error = response.json()[key]
    assert key == "error" and set(error) == {"message", "type", "param", "code"} and error["message"] and error["code"]
    return error


@pytest.mark.parametrize(
    ("path", "body", "param", "code", "said"),
    [
        (COMPLETIONS, {**PROMPT, "max_token": 3}, "max_token", "unknown_parameter", "did you mean 'max_tokens'"),
        (COMPLETIONS, {**PROMPT, "zzz": 3}, "zzz", "unknown_parameter", "known are"),
        (CHAT, {"messages": [{"role": "user", "contents": "x"}]}, "messages[0].contents", "unknown_parameter", "'content'"),
        (CHAT, {**TALK, "stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter", "include_usage"),
        (CHAT, {**TALK, "tools": [{"type": "function"}]}, "tools", "unsupported_parameter", "tool calling is not supported"),
        (CHAT, {**TALK, "audio": {"voice": "x"}}, "audio", "unsupported_parameter", "audio is not supported"),
        (CHAT, {**TALK, "guided_json": {}}, "guided_json", "unsupported_parameter", "structured output"),
        (CHAT, {**TALK, "response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value", "'text'"),
        (CHAT, {**TALK, "modalities": ["audio"]}, "modalities[0]", "invalid_value", "text"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, None, "unsupported_value", "text only"),
        (CHAT, {**TALK, "prediction": {"type": "file", "content": "x"}}, "prediction.type", "invalid_value", "'content'"),
        (CHAT, {**TALK, "prediction": {"type": "content"}}, "prediction.content", "missing_required_parameter", "required"),
        (CHAT, {**TALK, "prediction": {"type": "content", "text": "x"}}, "prediction.text", "unknown_parameter", "known are type, content"),
        (CHAT, {**TALK, "prediction": "the"}, "prediction", "invalid_value", "dictionary"),
        (COMPLETIONS, {**PROMPT, "prediction": "x" * (2**18 + 1)}, "prediction", "invalid_value", "up to 262144 characters"),
        (COMPLETIONS, {**PROMPT, "best_of": 3}, "best_of", "unsupported_parameter", "n samples"),
        (COMPLETIONS, {}, "prompt", "missing_required_parameter", "required"),
        (CHAT, {"messages": []}, "messages", "invalid_value", "at least 1"),
        (CHAT, {"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "invalid_value", "'user'"),
        (COMPLETIONS, {**PROMPT, "temperature": -1}, "temperature", "invalid_value", "greater than or equal to 0"),
        (COMPLETIONS, {**PROMPT, "temperature": "1"}, "temperature", "invalid_value", "number"),
        (COMPLETIONS, {**PROMPT, "top_p": 0}, "top_p", "invalid_value", "temperature=0"),
        (COMPLETIONS, {**PROMPT, "max_tokens": True}, "max_tokens", "invalid_value", "integer"),
        (COMPLETIONS, {**PROMPT, "max_tokens": 2**40}, "max_tokens", "invalid_value", "less than"),
        (COMPLETIONS, {**PROMPT, "min_tokens": 20}, "min_tokens", "invalid_value", "max_tokens=16"),
        (COMPLETIONS, {**PROMPT, "n": 0}, "n", "invalid_value", "greater"),
        (COMPLETIONS, {**PROMPT, "n": 17}, "n", "invalid_value", "up to 16"),
        (COMPLETIONS, {**PROMPT, "stop": ["x"] * 17}, "stop", "invalid_value", "up to 16"),
        (COMPLETIONS, {**PROMPT, "stop": "x" * 257}, "stop", "invalid_value", "up to 256 characters"),
        (COMPLETIONS, {**PROMPT, "stop": [""]}, "stop", "invalid_value", "non-empty"),
        (COMPLETIONS, {**PROMPT, "logprobs": 21}, "logprobs", "invalid_value", "20"),
        (CHAT, {**TALK, "top_logprobs": 2}, None, "invalid_value", "logprobs=true"),
        (COMPLETIONS, {**PROMPT, "stream_options": {}}, None, "invalid_value", "stream=true"),
        (COMPLETIONS, {**PROMPT, "logit_bias": {"the": 1}}, None, "invalid_value", "pattern"),
        (COMPLETIONS, {**PROMPT, "logit_bias": {"5": 101}}, None, "invalid_value", "100"),
        (COMPLETIONS, {**PROMPT, "logit_bias": {"99999": 1}}, "logit_bias", "invalid_value", "99999"),
        (COMPLETIONS, {**PROMPT, "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value", "up to 1024"),
        (COMPLETIONS, {**PROMPT, "allowed_token_ids": []}, "allowed_token_ids", "invalid_value", "at least one"),
        (COMPLETIONS, {**PROMPT, "seed": 2**64}, "seed", "invalid_value", "less than"),
        (COMPLETIONS, {"prompt": []}, "prompt", "invalid_value", "empty"),
        (COMPLETIONS, {"prompt": ""}, "prompt", "invalid_value", "empty"),
        (COMPLETIONS, {"prompt": [5, "x"]}, "prompt", "invalid_value", "list of such prompts"),
        (COMPLETIONS, {"prompt": [[1], [2.5]]}, "prompt", "invalid_value", "token ids"),
        (COMPLETIONS, {"prompt": [5, 99999]}, "prompt", "invalid_value", "99999 is not a token id"),
        (COMPLETIONS, {"prompt": [-1]}, "prompt", "invalid_value", "from 0"),
        (COMPLETIONS, {"prompt": ["x"] * 257}, "prompt", "invalid_value", "takes 256"),
        (COMPLETIONS, {"prompt": ["x"] * 73}, "prompt", "invalid_value", "takes 72"),
        (COMPLETIONS, {**PROMPT, "max_tokens": CONTEXT}, "prompt", "context_length_exceeded", f"context of {CONTEXT}"),
        (CHAT, {**TALK, "chat_template_kwargs": {"messages": []}}, None, "invalid_value", "not the client's"),
        ("/tokenize", {}, None, "invalid_value", "either a prompt or messages"),
        ("/detokenize", {"tokens": [99999]}, "tokens", "invalid_value", "99999"),
    ],
)  # fmt: skip
def test_mistakes(server, path, body, param, code, said):
    error = shaped(server.post(path, **body), 400)
    assert error["type"] == "invalid_request_error" and error["code"] == code and said in error["message"]
    assert param is None or error["param"] == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"x"',
        b"[" * 100_000,
        b'{"prompt": "x", "temperature": NaN}',
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": ["\\ud800"]}',
    ],
)
def test_bodies_that_are_no_request(server, body):
    shaped(server.client.post(COMPLETIONS, content=body, headers={"Content-Type": "application/json"}), 400)


def test_a_body_that_is_not_said_to_be_json(server):
    """A page of another origin cannot send JSON without asking first, so nothing else is taken."""
    shaped(server.client.post(COMPLETIONS, content=b'{"prompt": "x"}', headers={"Content-Type": "text/plain"}), 400)


def test_fields_without_meaning_here_are_accepted(server):
    ignored = {
        "user": "u", "store": False, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True,
        "safety_identifier": "s", "prompt_cache_key": "k", "prompt_cache_retention": "24h",
    }  # fmt: skip
    nothing = {"tools": None, "response_format": {"type": "text"}, "modalities": ["text"], "stop": None, "tool_choice": "none"}
    assert server.post(CHAT, **TALK, **ignored, **nothing, max_tokens=1).status_code == 200


def test_routes_methods_and_models(server):
    assert shaped(server.get("/v1/nothing"), 404)["code"] == "not_found"
    assert shaped(server.get(COMPLETIONS), 405)["code"] == "method_not_allowed"
    assert shaped(server.post("/v1/models"), 405)["message"]
    error = shaped(server.post(COMPLETIONS, **PROMPT, model="gpt-4"), 404)
    assert error["code"] == "model_not_found" and error["param"] == "model" and "'tiny'" in error["message"]


def test_ten_megabytes_are_refused(server):
    error = shaped(server.post(COMPLETIONS, prompt="x" * 10 * 2**20), 413)
    assert error["code"] == "request_too_large"

    def parts():
        for _ in range(10):
            yield b"x" * 2**20

    shaped(server.client.post(COMPLETIONS, content=parts(), headers={"Content-Type": "application/json"}), 413)
    assert server.ready()


def test_prompts_far_beyond_the_context(server):
    """200,000 token ids, and a text that cannot fit however it is read: refused before the loop hears of them."""
    assert shaped(server.post(COMPLETIONS, prompt=[5] * 200_000), 400)["code"] == "context_length_exceeded"
    error = shaped(server.post(COMPLETIONS, prompt="the quick " * 200_000), 400)
    assert error["code"] == "context_length_exceeded"
    assert server.idle() and server.ready()


def test_the_client_raises_the_right_errors(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.completions.create(model="tiny", prompt="x", temperature=9)
        with pytest.raises(openai.NotFoundError, match="gpt-4"):
            client.chat.completions.create(model="gpt-4", messages=TALK["messages"])


def test_request_ids_come_back(server):
    assert server.client.get("/health/live", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert server.client.get("/health/live", headers={"X-Request-Id": "a b\x7f"}).headers["x-request-id"] != "a b\x7f"


def test_openapi_knows_every_route_and_no_422(server):
    document = server.get("/openapi.json").json()
    assert {COMPLETIONS, CHAT, "/v1/models", "/tokenize", "/metrics", "/health/live", "/health/ready"} <= set(document["paths"])
    statuses = {s for path in document["paths"].values() for operation in path.values() for s in operation["responses"]}
    assert "422" not in statuses
