"""Stop strings in a stream of text. Owns what is held back; knows nothing of tokens.

Which stop counts, when several occur: the one whose *last* character comes first; of those that end at the same character,
the longest. The text ends where that stop string begins. This depends on the text alone, not on how it is split.
"""

from collections import deque
from collections.abc import Iterable

from slipstream.base.errors import InputError


class StopStrings:
    """Watches a text for any of several strings (the automaton of Aho and Corasick, 1975).

    Its state is the longest end of the text so far that begins a stop string; exactly this is held back, so at most
    the length of the longest stop minus one. Cost: O(1) amortised per character.

    Args:
        stops: non-empty strings; none at all lets everything pass.

    Raises:
        InputError: a stop is empty or not a string.
    """

    def __init__(self, stops: Iterable[str] = ()):
        self.stops = tuple(stops)
        self.hit: str | None = None
        self._held = ""
        self._state = 0
        for stop in self.stops:
            if not isinstance(stop, str) or not stop:
                raise InputError(f"stop={stop!r}: must be a non-empty string")
        self._next: list[dict[str, int]] = [{}]
        self._found: list[str | None] = [None]
        self._fail = [0]
        self._depth = [0]
        for stop in self.stops:
            self._grow(stop)
        self._link()

    def feed(self, text: str) -> tuple[str, str | None]:
        """Goes on with the text.

        Returns:
            (text that may be shown now, the stop string that was hit or None). After a hit nothing is emitted any more.
        """
        if self.hit is not None:
            return "", self.hit
        if not self.stops:
            return text, None
        pending = self._held + text
        for end, char in enumerate(text, start=len(self._held) + 1):
            self._state = self._step(self._state, char)
            self.hit = self._found[self._state]
            if self.hit is not None:
                self._held = ""
                return pending[: end - len(self.hit)], self.hit
        shown = len(pending) - self._depth[self._state]
        self._held = pending[shown:]
        return pending[:shown], None

    def flush(self) -> str:
        """The text ends here: what was held back, if no stop was hit."""
        held, self._held, self._state = self._held, "", 0
        return held

    @property
    def held(self) -> str:
        """The text held back now."""
        return self._held

    def _grow(self, stop: str) -> None:
        """Adds `stop` to the trie."""
        state = 0
        for char in stop:
            if char not in self._next[state]:
                self._next[state][char] = len(self._next)
                self._next.append({})
                self._found.append(None)
                self._fail.append(0)
                self._depth.append(self._depth[state] + 1)
            state = self._next[state][char]
        self._found[state] = stop

    def _link(self) -> None:
        """Failure links, breadth first; a state without a stop of its own inherits the longest that ends there."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            for char, child in self._next[state].items():
                self._fail[child] = self._step(self._fail[state], char)
                self._found[child] = self._found[child] or self._found[self._fail[child]]
                queue.append(child)

    def _step(self, state: int, char: str) -> int:
        while char not in self._next[state]:
            if state == 0:
                return 0
            state = self._fail[state]
        return self._next[state][char]
