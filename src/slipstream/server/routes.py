"""Routes that make texts, and those about the model and its tokens."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from slipstream.server.desk import Desk
from slipstream.server.errors import json_response
from slipstream.server.events import unless_gone
from slipstream.server.messages import Chat, Detokenize, Generate, Tokenize
from slipstream.server.sampling import chat_params, check_prompts, completion_params
from slipstream.server.schemas import ChatMessage, ChatRequest, CompletionRequest, DetokenizeRequest, Sampling, TokenizeRequest
from slipstream.server.shapes import ChatShape, CompletionShape

ERROR = {"description": "an error in OpenAI's shape"}
ERRORS: dict[int | str, dict[str, Any]] = {status: ERROR for status in (400, 401, 404, 405, 413, 429, 500, 503, "default")}


def with_usage(body: Sampling) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


def conversation(messages: list[ChatMessage], add_generation_prompt: bool, more: dict[str, Any] | None = None) -> Chat:
    return Chat([message.plain() for message in messages], {**(more or {}), "add_generation_prompt": add_generation_prompt})


def text_routes(desk: Desk) -> APIRouter:
    """/v1/completions and /v1/chat/completions."""
    router = APIRouter(responses=ERRORS)

    @router.post("/v1/completions", response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Any:
        """Continues prompts."""
        desk.check_model(body.model)
        params = completion_params(body, desk.settings.limits)
        prompts = check_prompts(body.prompt, desk.settings.limits, "prompt")
        desk.check_open()
        desk.check_room(len(prompts) * params.n, "prompt" if len(prompts) > 1 else "n")
        hello = desk.link.hello
        order = Generate(desk.link.next_id(), params, prompts, open_ended=body.max_tokens is None, echo=body.echo)
        return await desk.answer(
            request,
            order,
            lambda accepted: CompletionShape(
                desk.settings.name, hello.profile, params.n, accepted, logprobs=body.logprobs, echo=body.echo
            ),
            stream=body.stream,
            with_usage=with_usage(body),
        )

    @router.post("/v1/chat/completions", response_class=Response)
    async def chat(body: ChatRequest, request: Request) -> Any:
        """Answers a conversation."""
        desk.check_model(body.model)
        params = chat_params(body, desk.settings.limits)
        desk.check_open()
        desk.check_room(params.n, "n")
        hello = desk.link.hello
        open_ended = body.max_tokens is None and body.max_completion_tokens is None
        talk = conversation(body.messages, body.add_generation_prompt, body.chat_template_kwargs)
        return await desk.answer(
            request,
            Generate(desk.link.next_id(), params, chat=talk, open_ended=open_ended),
            lambda accepted: ChatShape(desk.settings.name, hello.profile, params.n, accepted, logprobs=body.logprobs),
            stream=body.stream,
            with_usage=with_usage(body),
        )

    return router


def model_routes(desk: Desk) -> APIRouter:
    """/v1/models, /tokenize and /detokenize."""
    router = APIRouter(responses=ERRORS)

    def card() -> dict[str, Any]:
        hello = desk.link.hello
        longest = {} if hello is None else {"max_model_len": hello.max_len}
        return {"id": desk.settings.name, "object": "model", "created": desk.started, "owned_by": "slipstream", **longest}

    @router.get("/v1/models", response_class=Response)
    async def models() -> Response:
        """The one model there is."""
        return json_response({"object": "list", "data": [card()]})

    @router.get("/v1/models/{name:path}", response_class=Response)
    async def model(name: str) -> Response:
        desk.check_model(name)
        return json_response(card())

    @router.post("/tokenize", response_class=Response)
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        """Token ids of a text or of a conversation as the model reads it."""
        desk.check_model(body.model)
        desk.check_open()
        talk = None if body.messages is None else conversation(body.messages, body.add_generation_prompt)
        order = Tokenize(desk.link.next_id(), body.prompt or "", talk, body.add_special_tokens)
        tokens = await unless_gone(request, desk.link.ask(order))
        out = {"count": len(tokens.tokens), "max_model_len": desk.link.hello.max_len, "tokens": tokens.tokens}
        return json_response({**out, "token_strs": tokens.texts} if body.return_token_strs else out)

    @router.post("/detokenize", response_class=Response)
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        """The text of token ids."""
        desk.check_model(body.model)
        desk.check_open()
        text = await unless_gone(request, desk.link.ask(Detokenize(desk.link.next_id(), body.tokens)))
        return json_response({"prompt": text.text})

    return router


def state_routes(desk: Desk) -> APIRouter:
    """/health, /metrics, /version and the numbers of the page's meter."""
    router = APIRouter(responses={status: ERROR for status in (401, 503)})

    @router.get("/health/live", response_class=Response)
    async def live() -> Response:
        """The front answers. The only route without a key."""
        return json_response({"status": "live"})

    @router.get("/health/ready", response_class=Response)
    async def ready() -> Response:
        """Requests are served, and the engine makes progress or has nothing to do."""
        desk.check_open()
        return json_response({"status": "ready"})

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text."""
        text = desk.metrics.text(desk.link.well and not desk.draining, desk.link.silence)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @router.get("/version", response_class=Response)
    async def version() -> Response:
        hello = desk.link.hello
        if hello is None:
            raise desk.link.unavailable()
        return json_response({"version": hello.version, "numerics": hello.profile})

    @router.get("/status", response_class=Response)
    async def status() -> Response:
        """What the meter of the web page shows."""
        hello, beat = desk.link.hello, desk.link.beat
        if hello is None or beat is None:
            raise desk.link.unavailable()
        facts = {name: getattr(hello, name) for name in ("profile", "max_len", "max_batch", "demo", "chat", "text", "limit", "binds")}
        now = {name: getattr(beat, name) for name in ("running", "waiting", "used", "speed", "roof", "made")}
        return json_response({"model": desk.settings.name, "ready": desk.link.well and not desk.draining, **facts, **now})

    return router
