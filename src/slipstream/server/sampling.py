"""From request bodies to SamplingParams, within the server's limits. Everything here is decided before anything is allocated."""

from collections.abc import Sequence
from typing import Any

from slipstream.base.errors import InputError
from slipstream.server.errors import bad, of_input
from slipstream.server.schemas import ChatRequest, CompletionRequest, Sampling
from slipstream.server.settings import Limits
from slipstream.step import SamplingParams

DEFAULT_COMPLETION = 16  # tokens, as OpenAI's; a chat answer may fill the context
UNBOUNDED = 2**31 - 1


def completion_params(body: CompletionRequest, limits: Limits) -> SamplingParams:
    """max_tokens=0 scores the prompt, which is what echo with logprobs asks for too."""
    asked = DEFAULT_COMPLETION if body.max_tokens is None else body.max_tokens
    scores = body.logprobs if body.echo and body.logprobs is not None else (0 if asked == 0 else None)
    return _params(body, limits, asked, body.logprobs, scores, body.prediction)


def chat_params(body: ChatRequest, limits: Limits) -> SamplingParams:
    """Without a limit the answer may be as long as there is room for."""
    if len(body.messages) > limits.messages:
        raise bad(f"messages: {len(body.messages)} of them; this server takes {limits.messages}", "messages")
    given = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if given == 0:
        raise bad("max_completion_tokens=0: ask for at least one token", "max_completion_tokens")
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    prediction = None if body.prediction is None else body.prediction.plain()
    return _params(body, limits, UNBOUNDED if given is None else given, logprobs, None, prediction)


def check_prompts(prompt: str | list[Any], limits: Limits, field: str) -> list[str | list[int]]:
    """One prompt or several, as a list of prompts."""
    if isinstance(prompt, str) or isinstance(prompt[0], int):
        return [prompt]
    if len(prompt) > limits.prompts:
        raise bad(f"{field}: {len(prompt)} prompts; this server takes {limits.prompts} in one request", field)
    return prompt


def _params(
    body: Sampling, limits: Limits, max_tokens: int, logprobs: int | None, scores: int | None, prediction: str | None
) -> SamplingParams:
    stops = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    _bounded("n", body.n, limits.samples)
    _bounded("stop", len(stops), limits.stops)
    for stop in stops:
        _bounded("stop", len(stop), limits.stop_length, " characters")
    for name in ("logit_bias", "bad_words", "stop_token_ids", "allowed_token_ids"):
        _bounded(name, len(getattr(body, name) or ()), limits.biases)
    _bounded("prediction", len(prediction or ""), limits.prediction, " characters")
    for word in body.bad_words or ():
        _bounded("bad_words", len(word), limits.stop_length, " characters")
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            temperature=body.temperature,
            top_k=max(body.top_k, 0),
            top_p=body.top_p,
            min_p=body.min_p,
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
            bad_words=tuple(body.bad_words or ()),
            allowed_token_ids=_some(body.allowed_token_ids),
            stop=stops,
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=body.ignore_eos,
            seed=None if body.seed is None else body.seed % 2**64,
            n=body.n,
            logprobs=logprobs,
            prompt_logprobs=scores,
            prediction=prediction,
        )
    except InputError as error:
        raise of_input(error) from error


def _some(ids: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if ids is None else tuple(ids)


def _bounded(name: str, value: int, most: int, unit: str = "") -> None:
    if value > most:
        raise bad(f"{name}: {value}{unit}; this server takes up to {most}{unit}", name)
