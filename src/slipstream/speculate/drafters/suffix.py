"""Suffix drafts: the continuations of the longest earlier occurrences of the text's end, by vote (after SuffixDecoding, Oliaro et
al. 2024).

Owns texts as chains of places: every place points to the one before it that ends with the same few tokens, so a new token costs
one entry and a guess follows at most `places` links, however long the text is. Beside its own text a request may look into those
of others, where `others` is asked for: then how fast a text comes tells something about what others wrote.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext
from slipstream.step.draft import EMPTY, DraftTree

ANCHOR = 3  # tokens that must agree before a place is looked at
LONGEST = 32  # agreement beyond this makes no guess better
BREAK = -1  # between two texts of the store


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        nodes: tokens of a guess at most; it is never longer than the agreement it rests on, but for one.
        places: earlier places looked at, the latest first.
        share: a guess goes on while at least this share of the places agrees on the next token.
        others: whether texts of requests that ended are looked into too.
        kept: tokens of such texts that are kept.
    """

    nodes: int = 8
    places: int = 16
    share: float = 0.5
    others: bool = False
    kept: int = 1 << 20

    def __post_init__(self):
        at_least(1, nodes=self.nodes, places=self.places, kept=self.kept)


class Places:
    """The places of one text at which the text's end was seen before."""

    __slots__ = ("tokens", "_last", "_before")

    def __init__(self, tokens: Sequence[int]):
        self.tokens = tokens
        self._last: dict[tuple[int, ...], int] = {}  # last tokens -> latest place that another token follows
        self._before: list[int] = []  # place -> the one before it with the same last tokens, 0 for none

    def extend(self) -> None:
        """Takes in what the text has gained: all places that another token follows."""
        tokens, before, last = self.tokens, self._before, self._last
        while len(before) < min(ANCHOR, len(tokens)):
            before.append(0)
        for end in range(len(before), len(tokens)):
            anchor = tuple(tokens[end - ANCHOR : end])
            before.append(last.get(anchor, 0))
            last[anchor] = end

    def ends(self, text: Sequence[int], most: int) -> list[tuple[int, int]]:
        """(agreement, place) of the latest `most` places where `text`'s last tokens were seen, the best agreement only."""
        place = self._last.get(tuple(text[-ANCHOR:]), 0) if len(text) >= ANCHOR else 0
        if not place:
            return []
        found: list[tuple[int, int]] = []
        while place and most:
            found.append((self._agreement(text, place), place))
            place, most = self._before[place], most - 1
        best = max(found, default=(0, 0))[0]
        return [one for one in found if one[0] == best]

    def _agreement(self, text: Sequence[int], place: int) -> int:
        """How many tokens before `place` are those at the end of `text`."""
        tokens, length = self.tokens, ANCHOR
        most = min(place, len(text), LONGEST)
        while length < most and tokens[place - 1 - length] == text[-1 - length]:
            length += 1
        return length


class Suffix:
    def __init__(self, options: Options):
        self.max_draft, self._options = options.nodes, options
        self._own: dict[int, Places] = {}
        self._store = Places([])

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [self._guess(context) for context in contexts]

    def drop(self, request: int) -> None:
        own = self._own.pop(request, None)
        if own is not None and self._options.others:
            self._remember(own.tokens)

    def _guess(self, context: DraftContext) -> DraftTree:
        own = self._own.get(context.request)
        if own is None:
            own = self._own[context.request] = Places(context.tokens)
        own.extend()
        text, ends = own, own.ends(context.tokens, self._options.places)
        if self._options.others:
            theirs = self._store.ends(context.tokens, self._options.places)
            if theirs and (not ends or theirs[0][0] > ends[0][0]):  # one's own text where they are equal
                text, ends = self._store, theirs
        if not ends:
            return EMPTY
        agreement = ends[0][0]
        count = min(context.budget, self.max_draft, agreement + 1)
        guess = vote(text.tokens, [place for _, place in ends], count, self._options.share)
        return DraftTree.chain(guess, f"suffix {agreement.bit_length()}{' sure' if len(ends) > 1 else ''}")

    def _remember(self, tokens: Sequence[int]) -> None:
        texts: list[int] = self._store.tokens
        if len(texts) > self._options.kept:  # begin anew with the later half, so that old texts are forgotten
            self._store = Places(texts[-self._options.kept // 2 :])
        self._store.tokens.extend([*tokens, BREAK])
        self._store.extend()


def vote(tokens: Sequence[int], places: list[int], count: int, share: float) -> list[int]:
    """Up to `count` tokens that follow most of the places; those that disagree lose their say."""
    out: list[int] = []
    voters = len(places)
    while len(out) < count:
        following = Counter(tokens[place] for place in places if place < len(tokens))
        token, votes = max(following.items(), key=lambda item: item[1], default=(BREAK, 0))
        if token == BREAK or votes < share * voters:
            break
        out.append(token)
        places = [place + 1 for place in places if place < len(tokens) and tokens[place] == token]
        voters = len(places)
    return out


def make(options: Options, around: Around) -> Suffix:
    return Suffix(options)
