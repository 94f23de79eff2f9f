"""A smaller model with the same tokenizer guesses ahead (Leviathan et al. 2023), with the noise with which its guesses are checked.

Owns what that model has read of each request. It reads what it does not know of the text, then goes on by itself, one token of all
requests a call. What it has read and was not kept is simply read over:

    text          a b c d e          read by the model  a b c x y   ->  it reads  d e   at the places of x and y
    all was kept  a b c x y z                           a b c x y                 z and whatever follows

The token that is guessed for a position is drawn with the noise of that position, so that two models that mostly agree mostly draw
the same (docs/numerics.md, section 4).
"""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from slipstream.base.errors import InputError
from slipstream.sampling.sampler import SampleRow
from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Feed, Forward
from slipstream.speculate.learned import brought
from slipstream.speculate.unrolled import Unrolled
from slipstream.text.tokenizer import FILE, Tokenizer
from slipstream.weights.hub import locate

SIBLING = "draft"  # the folder of a small model that comes with a checkpoint
SAMPLE = "The quick brown fox: 3.14 + 42 = naïve? «Schön», 東京 🙂\n\tdef f(x): return x**2  # and so on"


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        path: the smaller model: a folder, a GGUF file or a hub id; the built-in model has one of its own.
        nodes: tokens of a guess at most.
        tree: whether the draft grows as a tree where the model is sure; else it is a chain.
        depth, width: of a tree: tokens ahead at most; choices of every token, and guesses that are read together.
    """

    path: str = ""
    nodes: int = 6
    tree: bool = False
    depth: int = 4
    width: int = 3

    def __post_init__(self):
        at_least(1, nodes=self.nodes, depth=self.depth, width=self.width)


@dataclass(slots=True)
class Reading:
    """What the model has read of one request: the text up to `sure`, then its own `guess`."""

    sure: int = 0
    guess: list[int] = field(default_factory=list)

    def known(self, tokens: Sequence[int]) -> int:
        """How many of `tokens` it has read. The last one never counts: it is to be read now, and what follows it drawn."""
        for token in self.guess:
            if self.sure >= len(tokens) or tokens[self.sure] != token:
                break
            self.sure += 1
        self.sure, self.guess = min(self.sure, len(tokens) - 1), []
        return self.sure


class DraftModel(Unrolled):
    """
    Args:
        forward: the small model.
        options: the user's.
        kind: of its drafts.
        bare: whether its vocabulary has another size than that of the model it drafts for (padding differs); then penalties and the
            like, which count by token, do not shape its guesses.
    """

    def __init__(self, forward: Forward, options: Options, kind: str = "draft_model", bare: bool = False):
        depth, width = (options.depth, options.width) if options.tree else (options.nodes, 1)
        super().__init__(kind, forward, options.nodes, depth, width, options.tree)
        self._bare = bare
        self._read: dict[int, Reading] = {}

    def drop(self, request: int) -> None:
        self._read.pop(request, None)
        self._forward.drop(request)

    def _feeds(self, contexts: Sequence[DraftContext], room: int) -> tuple[list[DraftContext], list[Feed]]:
        rows, ready, feeds = self._forward.max_rows, [], []
        for context in contexts:
            if context.passes < 1:
                continue
            reading, tokens = self._read.setdefault(context.request, Reading()), context.tokens
            start = reading.known(tokens)
            if rows < 1 or not self._forward.reserve(context.request, len(tokens) + room):
                continue
            new = tokens[start : start + rows]
            reading.sure += len(new)
            rows -= len(new)
            ask = None
            if reading.sure == len(tokens) and len(ready) < self._forward.max_asks:
                ask = self._ask(context, ())
                ready.append(context)
            feeds.append(Feed(context.request, start, new, ask))
        return ready, feeds

    def _start(self, context: DraftContext) -> int:
        return len(context.tokens)

    def _ask(self, context: DraftContext, guess: Sequence[int]) -> SampleRow:
        voice = replace(context.voice, processors=[]) if self._bare else context.voice
        return SampleRow(voice, len(context.tokens) + len(guess), guess)

    def _guessed(self, context: DraftContext, read: list[int]) -> None:
        self._read[context.request].guess = read


def make(options: Options, around: Around) -> DraftModel:
    return DraftModel(around.forward, options, bare=around.forward.vocab != around.spec.vocab)


def asks(options: Options) -> int:
    """Tokens of one request that are drawn in one call."""
    return options.width if options.tree else 1


def beside(options: Options, source: Path | str) -> Path | str:
    """The small model.

    Raises:
        InputError: none was named, and none comes with the checkpoint; or it has another tokenizer.
    """
    path = options.path or brought(SIBLING, source)
    if path is None:
        raise InputError(f"speculate='draft_model': no small model comes with {source}; name one: draft_model:path=FOLDER")
    if not str(path).startswith("dummy:") and not same_tokens(locate(path), Path(source)):
        raise InputError(f"speculate: path={str(path)!r} has another tokenizer than {source}; take a model of the same family")
    return path


def same_tokens(one: Path, other: Path) -> bool:
    """Whether two models read and write a text in the same tokens."""
    if not (one.exists() and other.exists()):
        return True  # what cannot be opened says so itself
    files = one / FILE, other / FILE
    if all(file.is_file() for file in files) and filecmp.cmp(*files, shallow=False):
        return True  # as where one comes with the other; opening two large vocabularies takes as long as the rest of a start
    first, second = Tokenizer.load(one), Tokenizer.load(other)
    ids = first.encode(SAMPLE)
    return ids == second.encode(SAMPLE) and first.decode(ids) == second.decode(ids)
