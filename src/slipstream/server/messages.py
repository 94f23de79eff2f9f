"""What the front and the engine process say to each other, and how it is written: typed msgpack, nothing that could run code.

A request of the front has a number (`id`); its texts are counted by `index` = prompt * n + sample. Every request is answered by
exactly one of Accepted and Refused; after Accepted come Pieces until each index has had its finish_reason.
"""

from typing import Any

import msgspec

from slipstream.step import SamplingParams


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages; its name goes over the wire."""


# front -> engine


class Chat(Message):
    """A conversation to be put through the model's template; `variables` go to it as they are."""

    messages: list[dict[str, Any]]
    variables: dict[str, Any]


class Generate(Message):
    """Texts to make.

    Attributes:
        prompts: texts or token ids.
        chat: a conversation, in place of prompts.
        params: for each of them.
        open_ended: no max_tokens was given: as many as there is room for, at most params.max_tokens where that is above 0.
        echo: send the prompt back: its text, and its tokens where scores are asked for.
        pooling: "mean" or "last" of the prompt's states instead of scores; of length 1 with `normalize`.
    """

    id: int
    params: SamplingParams
    prompts: list[str | list[int]] = []
    chat: Chat | None = None
    open_ended: bool = False
    echo: bool = False
    pooling: str | None = None
    normalize: bool = True


class Tokenize(Message):
    id: int
    prompt: str = ""
    chat: Chat | None = None
    special: bool = True


class Detokenize(Message):
    id: int
    tokens: list[int]


class Abort(Message):
    """Ends a request in whatever state it is; nothing is said of it any more."""

    id: int


class Stop(Message):
    """Ends the engine process after the running step."""


Order = Generate | Tokenize | Detokenize | Abort | Stop


# engine -> front


class Hello(Message):
    """The engine is ready to take requests.

    Attributes:
        profile: numerics profile.
        step: seconds of the largest step that was tried.
        limit: tokens per second that one request could get on this machine at most.
        demo: the built-in model runs.
        verify, exact: rule by which drafts are checked; whether it keeps the distribution of the text.
    """

    model: str
    profile: str
    version: str
    max_len: int
    max_batch: int
    vocab: int
    pages: int
    page_size: int
    text: bool
    chat: bool
    demo: bool
    step: float
    limit: float
    binds: str
    verify: str = "match"
    exact: bool = True


class Failed(Message):
    """The engine could not start, for this reason."""

    reason: str
    expected: bool


class Token(Message):
    """A token by its id and the bytes of its text."""

    id: int
    bytes: bytes


class Scored(Message):
    """A token with its log-probability, and the likeliest ones at its place."""

    token: Token
    logprob: float
    top: list[tuple[Token, float]] = []


class Accepted(Message):
    """The request was taken in.

    Attributes:
        prompt_tokens: tokens of each prompt.
        texts: the prompts' texts, if they were to be sent back.
        first: each prompt's first token (the only one without a score), where scores are asked for.
        lossy: the rule by which drafts are checked, if it does not keep the distribution of the text.
    """

    id: int
    prompt_tokens: list[int]
    texts: list[str] | None = None
    first: list[Token] | None = None
    lossy: str | None = None


class Refused(Message):
    """The request cannot be done as it is, or (status 500) the engine failed while it ran."""

    id: int
    status: int
    code: str
    param: str | None
    message: str


class Piece(Message):
    """News of one text: see engine.outputs.Delta.

    Attributes:
        tokens: how many are new.
        queued: seconds it waited for its seat, when it got it.
        cached: prompt tokens that needed no computing, likewise.
        vector: the prompt as little-endian fp32, in the last piece, where one was asked for.
        predicted: tokens of the request's prediction that were checked, and how many of them were right.
    """

    id: int
    index: int
    text: str = ""
    tokens: int = 0
    logprobs: list[Scored] | None = None
    scores: list[Scored] | None = None
    finish_reason: str | None = None
    queued: float | None = None
    cached: int = 0
    vector: bytes = b""
    predicted: tuple[int, int] = (0, 0)


class Pieces(Message):
    """What one step brought."""

    items: list[Piece]


class Tokens(Message):
    id: int
    tokens: list[int]
    texts: list[str]


class Text(Message):
    id: int
    text: str


class Beat(Message):
    """The engine's pulse, several times a second, from a thread of its own. Counters count from the start of the process.

    Attributes:
        steps: steps done, the mark of progress; `working`: whether there is something to do.
        running, waiting: texts with and without a seat.
        used: share of KV pages held by requests, 0 to 1; `cached_share` by the prefix tree alone.
        busy: seconds spent in steps; `ideal`: the least time in which the machine could have done them.
        made: tokens made; `hits`: tokens found in the prefix cache; `preemptions`, `failures` of steps.
        recent: seconds of each step since the last beat.
        speed: tokens per second lately; `roof` what the same steps would bring at the machine's limit.
        chances: steps of texts that said something; `drafts`: those of them in which guesses were checked.
        drafted, accepted: guesses that were checked, and that were right; `accepted_at` depth 1, 2, ...
        drafting: seconds spent on making guesses.
    """

    steps: int
    working: bool
    running: int
    waiting: int
    used: float
    cached_share: float
    busy: float
    ideal: float
    made: int
    hits: int
    preemptions: int
    failures: int
    recent: list[float]
    speed: float
    roof: float
    chances: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = []
    drafting: float = 0.0


News = Hello | Failed | Accepted | Refused | Pieces | Tokens | Text | Beat

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_news = msgspec.msgpack.Decoder(News).decode
