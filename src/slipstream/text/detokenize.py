"""Token ids to text, one token at a time. Owns the state between tokens; knows nothing of stop strings or requests."""

import codecs
from collections.abc import Sequence

from slipstream.text.tokenizer import Tokenizer

LONGEST_PART = 3  # bytes of a character that is not complete yet


class Detokenizer:
    """The text of one growing sequence of tokens.

    The pushes and the final flush together are exactly `tokenizer.decode(prompt + tokens)` without the text that was
    already certain from `prompt`. No push ends inside a character, and no U+FFFD is emitted for a character that later
    tokens may still complete. Each push costs what its own bytes cost; at most 3 bytes are held back, whatever the
    model emits.

    Args:
        tokenizer: whose vocabulary the tokens are of.
        prompt: tokens that come before: they decide whether a leading space is dropped, and a character that they
            begin belongs to the text of the tokens that complete it.
        skip_special: special tokens add nothing.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = (), *, skip_special: bool = True):
        self._pieces = tokenizer.pieces
        self._skip = self._pieces.special if skip_special else frozenset()
        self._decoder = codecs.getincrementaldecoder("utf-8")(self._pieces.errors)
        self._first = True
        self._trim = self._pieces.trim
        self._pass_over(prompt)

    def push(self, token: int) -> str:
        """The text that `token` completes, possibly none. Raises InputError for what cannot be a token id."""
        if token in self._skip:
            return ""
        data = self._pieces.get(token, self._first)
        if data is None:
            return ""
        self._first = False
        return self._trimmed(self._decoder.decode(data))

    def flush(self) -> str:
        """The end of the text: U+FFFD for a character that was begun and never completed."""
        text = self._trimmed(self._decoder.decode(b"", True))
        self._decoder.reset()
        return text

    @property
    def held(self) -> int:
        """Bytes held back; at most LONGEST_PART."""
        return len(self._decoder.getstate()[0])

    def _trimmed(self, text: str) -> str:
        """Drops leading characters while the text is at its very beginning."""
        while self._trim and text:
            if text[0] != self._pieces.trim_char:
                self._trim = 0
            else:
                self._trim -= 1
                text = text[1:]
        return text

    def _pass_over(self, prompt: Sequence[int]) -> None:
        """Puts the state behind `prompt`, from its first and last few tokens.

        UTF-8 is self-synchronising: what is pending depends on the last three bytes only.
        """
        for token in prompt:
            if not self._first and not self._trim:
                break
            self.push(token)
        tail = b""
        for token in reversed(prompt):
            if len(tail) >= LONGEST_PART:
                break
            if token not in self._skip:
                tail = (self._pieces.get(token, False) or b"") + tail
        self._decoder.reset()
        self._decoder.decode(tail)
