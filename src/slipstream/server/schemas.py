"""What the routes take: the bodies of OpenAI's API with the extensions that local engines share. Types and ranges of single
fields only; what depends on the model is checked by the engine, what depends on the server's limits by sampling.py."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from slipstream.server.fields import Strict, invalid, unsupported

TOKEN_ID = Annotated[int, Field(ge=0, lt=2**31)]
COUNT = Annotated[int, Field(ge=0, lt=2**31)]
SEED = Annotated[int, Field(ge=-(2**63), lt=2**64)]
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_SEVERAL = {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}, "minItems": 1}
Prompts = Annotated[str | list[Any], WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, _IDS, _SEVERAL]})]


def check_prompts(value: Any) -> Any:
    """A text, token ids, or a list of either; said in one sentence rather than four."""
    if isinstance(value, str):
        return value
    kinds = {type(item) for item in value}
    if not value:
        raise invalid("it is empty; give a text, a list of token ids, or a list of such prompts")
    if kinds == {int}:
        check_ids(value)
    elif kinds <= {str, list}:
        for item in value:
            if isinstance(item, list):
                if not item or {type(token) for token in item} != {int}:
                    raise invalid("each prompt must be a text or a non-empty list of token ids")
                check_ids(item)
    else:
        raise invalid("must be a text, a list of token ids, or a list of such prompts")
    return value


def check_ids(ids: list[int]) -> None:
    if min(ids) < 0 or max(ids) >= 2**31:
        raise invalid("token ids go from 0 to the size of the vocabulary - 1")


class StreamOptions(Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class Ignored(Strict):
    """Accepted, because clients send them; they mean nothing here."""

    user: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class Sampling(Ignored):
    """What completions and chat share."""

    model: str | None = None
    max_tokens: COUNT | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(ge=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1)] = 1
    stop: str | list[str] | None = None
    seed: SEED | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    logit_bias: dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    # beyond OpenAI's, under the names that vLLM's users know
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    min_tokens: COUNT = 0
    ignore_eos: bool = False
    stop_token_ids: list[TOKEN_ID] | None = None
    bad_words: list[str] | None = None
    allowed_token_ids: list[TOKEN_ID] | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "Sampling":
        if self.stream_options is not None and not self.stream:
            raise invalid("stream_options: only with stream=true")
        return self


class CompletionRequest(Sampling):
    """POST /v1/completions."""

    prompt: Annotated[Prompts, Field(description="A text, token ids, or a list of such prompts.")]
    echo: bool = False
    prediction: str | None = None  # beyond OpenAI's, whose chats have it
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    _prompts = field_validator("prompt")(check_prompts)


class ResponseFormat(Strict):
    type: str
    json_schema: dict[str, Any] | None = None

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value != "text":
            raise unsupported(f"{value!r}: structured output is not supported by this server; only 'text' is")
        return value


class Part(Strict):
    type: str
    text: str = ""
    # other kinds of parts carry these; named here so that the kind is refused rather than the field
    image_url: Any = None
    input_audio: Any = None
    file: Any = None

    @field_validator("type")
    @classmethod
    def _text_only(cls, value: str) -> str:
        if value != "text":
            raise unsupported(f"{value!r}: this server reads text only")
        return value


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None

    def plain(self) -> dict[str, Any]:
        """As templates read it: parts joined by line breaks, nothing that was not given."""
        out = self.model_dump(exclude_none=True)
        if isinstance(self.content, list):
            out["content"] = "\n".join(part.text for part in self.content)
        return {"content": "", **out}


class Prediction(Strict):
    """What an answer may well be: it is checked rather than made where it fits."""

    type: Literal["content"]
    content: str | list[Part]

    def plain(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(Sampling):
    """POST /v1/chat/completions."""

    NEUTRAL = {"tools": ([],), "tool_choice": ("none",)}
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: COUNT | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    prediction: Prediction | None = None
    modalities: list[Literal["text"]] | None = None
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs: only with logprobs=true")
        taken = {"messages", "tools", "documents", "add_generation_prompt", "self"} & set(self.chat_template_kwargs or {})
        if taken:
            raise invalid(f"chat_template_kwargs: {sorted(taken)[0]!r} is not the client's to set")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise invalid("max_tokens: it is the old name of max_completion_tokens; give one of them")
        return self


class TokenizeRequest(Strict):
    """POST /tokenize: a prompt, or messages."""

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_of_them(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise invalid("prompt: give either a prompt or messages")
        return self


class DetokenizeRequest(Strict):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[TOKEN_ID]


class EmbeddingRequest(Ignored):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Annotated[Prompts, Field(description="A text, token ids, or a list of such inputs.")]
    encoding_format: Literal["float", "base64"] = "float"
    pooling: Literal["mean", "last"] = "mean"
    normalize: bool = True

    _prompts = field_validator("input")(check_prompts)
