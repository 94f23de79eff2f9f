"""The words of OpenAI's answers: what a text, its log-probabilities and its usage look like, whole and in chunks.

Owns the JSON of completions and chat completions. One Shape belongs to one request and remembers how far each text has come.
"""

import codecs
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from slipstream.server.messages import Accepted, Piece, Scored, Token
from slipstream.server.streams import merged


def token_text(token: Token) -> str:
    """A token for people; bytes that are no complete text are written like OpenAI's: "bytes:\\xe2\\x80"."""
    try:
        return token.bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


@dataclass(slots=True)
class Usage:
    """Tokens of a request, counted as pieces come; `lossy` names the rule of verification, if it changes what texts are likely."""

    prompt: int
    lossy: str | None = None
    made: int = 0
    checked: int = 0  # of predictions
    right: int = 0
    cached: int = 0

    def add(self, piece: Piece, samples: int) -> None:
        self.made += piece.tokens
        self.checked, self.right = self.checked + piece.predicted[0], self.right + piece.predicted[1]
        if piece.queued is not None and piece.index % samples == 0:  # once for each prompt
            self.cached += piece.cached

    def json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.made,
            "total_tokens": self.prompt + self.made,
            "prompt_tokens_details": {"cached_tokens": self.cached},
            "completion_tokens_details": {
                "accepted_prediction_tokens": self.right,
                "rejected_prediction_tokens": self.checked - self.right,
            },
            **({"lossy_verification": self.lossy} if self.lossy else {}),
        }


@dataclass(slots=True)
class Columns:
    """Log-probabilities of one text in the completions API: parallel lists. Offsets count characters from the text's beginning."""

    offset: int = 0
    decoder: Any = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def of(self, entries: list[Scored], top: int, first: Token | None = None) -> dict[str, Any]:
        """The entries as columns; `first` is a prompt's first token, which nothing precedes."""
        out: dict[str, Any] = {"tokens": [], "token_logprobs": [], "top_logprobs": [] if top else None, "text_offset": []}
        if first is not None:
            self._add(out, first, None, None)
        for entry in entries:
            likely = {token_text(token): value for token, value in entry.top}
            likely.setdefault(token_text(entry.token), entry.logprob)
            self._add(out, entry.token, entry.logprob, likely)
        return out

    def _add(self, out: dict[str, Any], token: Token, logprob: float | None, likely: dict[str, float] | None) -> None:
        out["tokens"].append(token_text(token))
        out["token_logprobs"].append(logprob)
        out["text_offset"].append(self.offset)
        if out["top_logprobs"] is not None:
            out["top_logprobs"].append(likely)
        self.offset += len(self.decoder.decode(token.bytes))


class Shape:
    """What both APIs have in common.

    Args:
        model, profile: for `model` and `system_fingerprint`.
        samples: n.
        accepted: the engine's word on the prompts.
    """

    prefix, whole, part = "", "", ""

    def __init__(self, model: str, profile: str, samples: int, accepted: Accepted):
        self._head = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model, "system_fingerprint": profile}
        self.samples, self.accepted = samples, accepted
        self.usage = Usage(sum(accepted.prompt_tokens), accepted.lossy)

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self.part, "choices": choices}

    def choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The entries of `choices` that a piece brings to a stream."""
        raise NotImplementedError

    def opening(self) -> Iterator[dict[str, Any]]:
        """Entries that come before the first piece."""
        return iter(())

    def answer(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        """The whole answer: pieces of each text, in order."""
        choices = [self.choice(index, merged(own)[0]) for index, own in enumerate(pieces)]
        return {**self._head, "object": self.whole, "choices": choices, "usage": self.usage.json()}

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        """A whole text, given as one piece."""
        raise NotImplementedError


class CompletionShape(Shape):
    """/v1/completions.

    Args:
        logprobs: how many likely tokens to list; None: no log-probabilities.
        echo: the prompt comes back before the text.
    """

    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, *common: Any, logprobs: int | None, echo: bool):
        super().__init__(*common)
        self._logprobs, self._echo = logprobs, echo
        self._columns: dict[int, Columns] = {}
        self._scores: dict[int, list[Scored]] = {}  # of each prompt, until they are complete
        self._waiting: dict[int, list[Piece]] = {}  # pieces of texts whose prompt has not been told

    def choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """With echo and logprobs the prompt is told when its scores are complete, before the text of any of its samples."""
        if not self._echo:
            yield self._entry(piece.index, piece.text, piece.logprobs, piece.finish_reason)
            return
        prompt = piece.index // self.samples
        self._scores.setdefault(prompt, []).extend(piece.scores or ())
        self._waiting.setdefault(piece.index, []).append(piece)
        if not self._scored(prompt):
            return
        for index in range(prompt * self.samples, (prompt + 1) * self.samples):
            waiting = self._waiting.get(index)
            if not waiting:
                continue
            if index not in self._columns:
                yield self._prompt(index)
            for own in waiting:
                if own.text or own.logprobs or own.finish_reason:
                    yield self._entry(index, own.text, own.logprobs, own.finish_reason)
            waiting.clear()

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        if not self._echo:
            return self._entry(index, piece.text, piece.logprobs, piece.finish_reason)
        before = self._prompt(index)
        after = self._entry(index, piece.text, piece.logprobs, piece.finish_reason)
        if self._logprobs is not None:
            after["logprobs"] = {name: _plus(column, after["logprobs"][name]) for name, column in before["logprobs"].items()}
        return {**after, "text": before["text"] + after["text"]}

    def answer(self, pieces: list[list[Piece]]) -> dict[str, Any]:
        for own in pieces:
            for piece in own:
                self._scores.setdefault(piece.index // self.samples, []).extend(piece.scores or ())
        return super().answer(pieces)

    def _scored(self, prompt: int) -> bool:
        return self._logprobs is None or len(self._scores[prompt]) >= self.accepted.prompt_tokens[prompt] - 1

    def _prompt(self, index: int) -> dict[str, Any]:
        """The prompt as the beginning of a text."""
        prompt = index // self.samples
        columns = self._columns[index] = Columns()
        logprobs = None
        if self._logprobs is not None:
            logprobs = columns.of(self._scores.get(prompt, []), self._logprobs, self.accepted.first[prompt])
        return {"index": index, "text": self.accepted.texts[prompt], "logprobs": logprobs, "finish_reason": None}

    def _entry(self, index: int, text: str, entries: list[Scored] | None, reason: str | None) -> dict[str, Any]:
        logprobs = None
        if self._logprobs is not None:
            logprobs = self._columns.setdefault(index, Columns()).of(entries or [], self._logprobs)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


class ChatShape(Shape):
    """/v1/chat/completions.

    Args:
        logprobs: whether they were asked for.
    """

    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, *common: Any, logprobs: bool):
        super().__init__(*common)
        self._logprobs = logprobs

    def opening(self) -> Iterator[dict[str, Any]]:
        for index in range(self.samples):
            yield {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}

    def choices(self, piece: Piece) -> Iterator[dict[str, Any]]:
        if piece.text or piece.logprobs:
            delta = {"content": piece.text}
            yield {"index": piece.index, "delta": delta, "logprobs": self._content(piece.logprobs), "finish_reason": None}
        if piece.finish_reason is not None:
            yield {"index": piece.index, "delta": {}, "logprobs": None, "finish_reason": piece.finish_reason}

    def choice(self, index: int, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text, "refusal": None}
        return {"index": index, "message": message, "logprobs": self._content(piece.logprobs), "finish_reason": piece.finish_reason}

    def _content(self, entries: list[Scored] | None) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        content = []
        for entry in entries or ():
            likely = [_named(token, value) for token, value in entry.top]
            content.append({**_named(entry.token, entry.logprob), "top_logprobs": likely})
        return {"content": content, "refusal": None}


def _named(token: Token, logprob: float) -> dict[str, Any]:
    return {"token": token_text(token), "logprob": logprob, "bytes": list(token.bytes)}


def _plus(first: list | None, second: list | None) -> list | None:
    return None if first is None else first + (second or [])
