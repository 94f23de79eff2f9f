"""SamplingParams: what a request asks of its text. Validated when made, immutable afterwards."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from slipstream.base.errors import InputError

MAX_LOGPROBS = 20
MAX_N = 128


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Options of one request. Defaults follow the OpenAI completions API unless said.

    Attributes:
        max_tokens: new tokens at most; 0 only scores the prompt (with `prompt_logprobs`).
        min_tokens: no end token and no stop token before this many new tokens.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_k: keep the k likeliest tokens (0: all).
        top_p: then keep the likeliest tokens that together hold this share of the mass.
        min_p: keep tokens at least this likely, relative to the likeliest.
        repetition_penalty: logits of tokens seen in prompt or output are divided (if > 0) or multiplied by it
            (Keskar et al. 2019); 1 is off.
        presence_penalty, frequency_penalty: subtracted once / per occurrence in the output; -2 to 2.
        logit_bias: token id -> added to its logit, -100 to 100.
        bad_words: texts that must not appear; their last token is forbidden where the others precede it.
        allowed_token_ids: nothing else may be sampled (None: everything may).
        stop: texts that end the output; not part of it.
        stop_token_ids: token ids that end the output; not part of the text.
        ignore_eos: go on past the model's end token.
        seed: fixes the noise; None draws one.
        n: independent samples of the same prompt.
        logprobs: log-probabilities of the chosen and this many top tokens per position (None: none).
        prompt_logprobs: the same for the prompt's tokens.
        prediction: what the text may well be: it is checked where it fits, whatever drafter was chosen. It changes no text (with
            verify="match"), only how long that takes.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prediction: str | None = None

    def __post_init__(self):
        for name in ("bad_words", "stop"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        if self.allowed_token_ids is not None:
            object.__setattr__(self, "allowed_token_ids", tuple(self.allowed_token_ids))
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not low <= value <= high:
                raise InputError(f"{name}={value!r}: must be between {low} and {high}")
            if name in _WHOLE and value != int(value):
                raise InputError(f"{name}={value!r}: must be a whole number")
        if self.top_p <= 0:
            raise InputError(f"top_p={self.top_p!r}: must be above 0; use temperature=0 for greedy text")
        if self.repetition_penalty <= 0:
            raise InputError(f"repetition_penalty={self.repetition_penalty!r}: must be above 0 (1 is off)")
        if self.min_tokens > self.max_tokens:
            raise InputError(f"min_tokens={self.min_tokens}: must not exceed max_tokens={self.max_tokens}")
        if self.max_tokens == 0 and self.prompt_logprobs is None:
            raise InputError("max_tokens=0: there is nothing to do; ask for prompt_logprobs or for at least one token")
        for name in ("stop", "bad_words"):
            if any(not isinstance(text, str) or not text for text in getattr(self, name)):
                raise InputError(f"{name}={getattr(self, name)!r}: must be non-empty strings")
        if self.prediction is not None and not isinstance(self.prediction, str):
            raise InputError(f"prediction={self.prediction!r}: must be a text")
        if self.allowed_token_ids is not None and not self.allowed_token_ids:
            raise InputError("allowed_token_ids=[]: at least one token must be allowed; leave it out to allow all")
        for token, bias in self.logit_bias.items():
            if not isinstance(token, int) or token < 0 or not -100 <= bias <= 100:
                raise InputError(f"logit_bias[{token!r}]={bias!r}: needs a token id and a value between -100 and 100")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


_RANGES = (
    ("max_tokens", 0, 2**31 - 1),
    ("min_tokens", 0, 2**31 - 1),
    ("temperature", 0, 100),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("repetition_penalty", 0, 100),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("seed", 0, 2**64 - 1),
    ("n", 1, MAX_N),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)
_WHOLE = {"max_tokens", "min_tokens", "top_k", "seed", "n", "logprobs", "prompt_logprobs"}
