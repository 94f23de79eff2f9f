"""Bodies that nobody would send: whatever JSON comes, the answer is an answer or an error in OpenAI's shape, never a 5xx."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.server.fields import REFUSED
from slipstream.server.schemas import ChatRequest, CompletionRequest, DetokenizeRequest, EmbeddingRequest, TokenizeRequest
from tests.server.test_errors import shaped

SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=8
)
MESSAGE = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=9)})
SOUND = {
    "prompt": st.text(min_size=1, max_size=9) | st.lists(st.integers(0, 280), min_size=1, max_size=5),
    "input": st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=3),
    "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    "tokens": st.lists(st.integers(0, 300), max_size=5),
    "max_tokens": st.integers(0, 4),
    "n": st.integers(1, 3),
    "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
    "logit_bias": st.dictionaries(st.integers(0, 300).map(str), st.floats(-100, 100), max_size=3),
    "seed": st.integers(-(2**63), 2**64 - 1),
    "stream": st.booleans(),
    "echo": st.booleans(),
    "bad_words": st.lists(st.text(min_size=1, max_size=4), max_size=2),
}
ROUTES = {
    "/v1/completions": (CompletionRequest, ("prompt", "max_tokens")),
    "/v1/chat/completions": (ChatRequest, ("messages", "max_tokens")),
    "/v1/embeddings": (EmbeddingRequest, ("input",)),
    "/tokenize": (TokenizeRequest, ("prompt",)),
    "/detokenize": (DetokenizeRequest, ("tokens",)),
}


@st.composite
def requests(draw):
    """A route and a body that is mostly sound, with a few fields that are anything."""
    path = draw(st.sampled_from(sorted(ROUTES)))
    model, needed = ROUTES[path]
    body = {name: draw(SOUND[name]) for name in needed}
    names = st.sampled_from(sorted({*model.model_fields, *list(REFUSED)[:5]} - {"model"}))
    for name in draw(st.lists(names, max_size=3, unique=True)):
        body[name] = draw(SOUND.get(name, JSON) | JSON)
    return path, body


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_no_body_is_the_server_s_fault(server, request):
    path, body = request
    response = server.post(path, **body)
    if response.status_code != 200:
        shaped(response, 400)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=JSON, path=st.sampled_from(sorted(ROUTES)))
def test_anything_at_all(server, body, path):
    response = server.client.post(path, json=body)
    shaped(response, 400)


def test_the_server_has_survived(server):
    server.until(server.idle)
    assert server.ready() and server.metric("engine_step_failures_total") == 0
