"""What users get back. Plain data."""

from dataclasses import dataclass, field

from slipstream.step import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Delta:
    """News of one sample of a request.

    Attributes:
        index: which of the n samples.
        text: new text; never half a character, never part of a stop string.
        token_ids: new tokens; their text may come with a later delta.
        logprobs: one entry per new token, where asked for.
        prompt_logprobs: entries for the prompt's second, third ... token, where asked for; may come in several parts.
        finish_reason: in the last delta: "stop", "length", "abort", or "error" where the engine itself failed.
        predicted: tokens of the request's `prediction` that were checked, and how many of them were right.
    """

    index: int
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish_reason: str | None = None
    predicted: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class Completion:
    """One finished (or growing) sample of a request; see Delta for the fields."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    finish_reason: str | None = None
    predicted: tuple[int, int] = (0, 0)

    def add(self, delta: Delta) -> None:
        self.text += delta.text
        self.token_ids.extend(delta.token_ids)
        if delta.logprobs is not None:
            self.logprobs = [*(self.logprobs or ()), *delta.logprobs]
        self.predicted = self.predicted[0] + delta.predicted[0], self.predicted[1] + delta.predicted[1]
        self.finish_reason = delta.finish_reason or self.finish_reason


@dataclass(slots=True)
class RequestOutput:
    """A request and its samples.

    Attributes:
        prompt: the prompt's text, None if it was given as tokens.
        prompt_token_ids: the prompt as the model read it.
        outputs: the n samples in order.
        prompt_logprobs: entry i belongs to prompt token i + 1 (the first token has nothing before it); None if not asked for.
        verify: rule by which drafts were checked: "match" says exactly what is said without drafts; "typical" is lossy.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[Completion]
    prompt_logprobs: list[TokenLogprobs] | None = None
    verify: str = "match"

    def add(self, delta: Delta) -> None:
        self.outputs[delta.index].add(delta)
        if delta.prompt_logprobs is not None:
            self.prompt_logprobs = [*(self.prompt_logprobs or ()), *delta.prompt_logprobs]

    @property
    def finished(self) -> bool:
        return all(output.finish_reason is not None for output in self.outputs)
