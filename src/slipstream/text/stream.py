"""The text of one running request. Owns its detokenizer, its stop strings and the text shown so far."""

from collections.abc import Iterable, Sequence

from slipstream.text.detokenize import Detokenizer
from slipstream.text.stop import StopStrings
from slipstream.text.tokenizer import Tokenizer


class TextStream:
    """Tokens in, text out, until a stop string is complete.

    Args:
        tokenizer: whose vocabulary the tokens are of.
        stop: strings that end the text; they are not part of it (see `slipstream.text.stop` for which one counts).
        prompt: tokens that come before, see Detokenizer.
        skip_special: special tokens add nothing.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Iterable[str] = (), prompt: Sequence[int] = (), *, skip_special: bool = True):
        self._detokenizer = Detokenizer(tokenizer, prompt, skip_special=skip_special)
        self._stops = StopStrings(stop)
        self._shown: list[str] = []

    def push(self, token: int) -> tuple[str, bool]:
        """Goes on with one token.

        Returns:
            (text that may be shown now, whether a stop string has been hit). Nothing is shown after a hit.
        """
        return self._show(self._detokenizer.push(token)), self.hit is not None

    def flush(self) -> str:
        """The request ends here: whatever was held back, empty after a hit."""
        return self._show(self._detokenizer.flush()) + self._keep(self._stops.flush())

    @property
    def hit(self) -> str | None:
        """The stop string that ended the text."""
        return self._stops.hit

    @property
    def text(self) -> str:
        """All text shown so far."""
        self._shown = ["".join(self._shown)]
        return self._shown[0]

    def _show(self, text: str) -> str:
        return self._keep(self._stops.feed(text)[0])

    def _keep(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text


class NoText:
    """The text of a model without a tokenizer: there is none."""

    def push(self, token: int) -> tuple[str, bool]:
        return "", False

    def flush(self) -> str:
        return ""
