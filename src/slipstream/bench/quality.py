"""How much worse a model reads for being rounded: bits per byte and perplexity of one text, per weight format and activation scale.

Owns what is compared, the text, and the sums. Text is cut into windows as training measures it (train/demo.py), and a window is one
step of the ordinary runner. The other ways to hold a model are in variants.py.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.arch import ModelSpec
from slipstream.base.errors import InputError
from slipstream.base.registry import unknown
from slipstream.bench.variants import AsQ4_0, CodedRows, Twin, Unpacked
from slipstream.cost import weights_bytes
from slipstream.engine.build import BUILTIN, set_threads, tokenizer_of
from slipstream.engine.resolve import LOGIT_ROWS
from slipstream.hardware import read as read_machine
from slipstream.model.build import DUMMY, open_weights
from slipstream.model.decoder import Decoder
from slipstream.ops.dispatch import Kernels
from slipstream.ops.types import CODED, FLOATS
from slipstream.sampling.sampler import Sampler
from slipstream.speculate.drafters import none
from slipstream.step import Admission, Chunk, Plan, SamplingParams
from slipstream.train.books import read_book
from slipstream.train.demo import overlapping
from slipstream.weights.hub import locate
from slipstream.weights.source import Weights
from slipstream.worker.pool import KVPool
from slipstream.worker.runner import Runner, Sizes

SHARED, BOOKS = "SLIPSTREAM_SHARED", "data/corpora/books"
FACTORS = (1, 30, 100)  # of the outlier channels; 1 is the model itself
CONTEXT = 1024  # tokens that are seen at a time, where the model was made for as many
PAGE = 16
Q4_0 = "Q4_0 (gguf)"
ASKED = SamplingParams(max_tokens=1, prompt_logprobs=0)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to compute a model.

    Attributes:
        weights: a format that weights can be converted to, or Q4_0.
        scale: values of a row of activations that share an int8 scale, or e4m3, as `Options.activations` says it; None where they stay
            fp32. What only GPUs compute is computed with the weights that the format means, in fp32.
    """

    weights: str
    scale: str | None = None

    def __str__(self) -> str:
        return self.weights if self.scale is None else f"{self.weights}/{self.scale}"


WAYS = (
    *(Way("fp32"), Way("bf16"), Way("int8", "32"), Way("int8", "128"), Way("int8", "row"), Way("q8_0", "32")),
    *(Way("int4", "32"), Way("int4", "row"), Way("int4_zero", "32"), Way("int4_64", "32"), Way("int4_64", "row"), Way(Q4_0, "32")),
    *(Way("int4"), Way("int4", CODED), Way("fp6"), Way("fp8", CODED)),
)


@dataclass(frozen=True, slots=True)
class Score:
    """What one way made of the text.

    Attributes:
        factor, way: of which twin, and how computed.
        nats: negative log likelihood of the text.
        bytes: of the weights in memory.
    """

    factor: int
    way: Way
    nats: float
    bytes: int


@dataclass(frozen=True, slots=True)
class Quality:
    """All of it. `tokens` were predicted, which say `text_bytes` bytes of text; `scores[0]` is the base line."""

    spec: ModelSpec
    kernels: str
    threads: int
    texts: tuple[str, ...]
    tokens: int
    text_bytes: int
    scores: list[Score]

    def bits_per_byte(self, score: Score) -> float:
        return score.nats / math.log(2) / self.text_bytes

    def perplexity(self, score: Score) -> float:
        """Per token."""
        return math.exp(score.nats / self.tokens)

    def change(self, score: Score) -> float:
        """Of the perplexity, as a part of the base line's."""
        return math.expm1((score.nats - self.scores[0].nats) / self.tokens)


def run(
    model: str | None,
    texts: Sequence[tuple[str, str]],
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
    ways: Sequence[str] | None = None,
) -> Quality:
    """Measures.

    Args:
        model: as for `Options`; None for the built-in one.
        texts: (title, text).
        threads: None takes the physical cores.
        ways: only these of WAYS, and the model as it is; None for all.

    Raises:
        InputError: there is no such way, the model has no tokenizer or cannot be rounded, there is no text, or `gguf` is not installed.
    """
    known = {str(way): way for way in WAYS}
    for name in ways or ():
        if name not in known:
            raise unknown("ways", name, known)
    wanted = [(factor, way) for factor in FACTORS for way in WAYS if ways is None or str(way) in ways]
    wanted = list(dict.fromkeys([(FACTORS[0], WAYS[0]), *wanted]))  # the base line first
    source = str(BUILTIN / "demo" if model is None else model)
    source = source if source.startswith(DUMMY) else locate(source)
    tokenizer = tokenizer_of(source)
    if tokenizer is None:
        raise InputError(f"model={model!r}: has no tokenizer, so it cannot read; take a model with one")
    ids = [tokenizer.encode(text) for _, text in texts]
    tokens, size = sum(len(one) - 1 for one in ids), sum(len(text.encode()) for _, text in texts)
    if tokens < 1:
        raise InputError("text: nothing to predict; give a longer one")
    weights, threads = open_weights(source), threads or read_machine().threads
    set_threads(threads)
    found = Quality(weights.spec, Kernels().profile, threads, tuple(title for title, _ in texts), tokens, size, [])
    for factor, way in wanted:
        found.scores.append(Score(factor, way, *read(weights, factor, way, ids)))
        say(f"x{factor} {way}: {found.bits_per_byte(found.scores[-1]):.4f} bits per byte")
    return found


def read(weights: Weights, factor: int, way: Way, ids: Sequence[list[int]]) -> tuple[float, int]:
    """(nats of all texts, bytes of weights) of a model's twin computed in one way."""
    twin = Twin(weights, factor)
    unpacked = way.scale in (None, CODED) and way.weights not in FLOATS
    held = AsQ4_0(twin) if way.weights == Q4_0 else Unpacked(twin, way.weights) if unpacked else twin
    format = held.as_stored if way.weights == Q4_0 or unpacked else way.weights
    context = min(CONTEXT, held.spec.max_len)
    kernels = CodedRows() if way.scale == CODED else Kernels() if way.scale is None else Kernels(activations=way.scale)
    decoder = Decoder(held.spec, held, kernels, context, LOGIT_ROWS, format=format, max_len=context)
    pages = tuple(range(-(-context // PAGE)))
    pool = KVPool(decoder.pool_shape(len(pages), PAGE), "fp32", kernels)
    runner = Runner(decoder, pool, Sampler(kernels, LOGIT_ROWS), none.NoDrafter(), Sizes(context, 1, context))
    nats = 0.0
    for text in ids:
        for window, known in overlapping(text, context):
            admitted = Admission(0, tuple(window), len(window), ASKED, 0)
            chunk = Chunk(0, 0, tuple(window[:-1]), pages, sample=False, score=known)
            [outcome] = runner.run(Plan((admitted,), (chunk,), released=(0,))).outcomes
            nats -= sum(entry.logprob for entry in outcome.scores)
    return nats, weights_bytes(held.spec, way.weights if unpacked else format, held.format)


def held_out(folder: Path | None) -> list[tuple[str, str]]:
    """(title, chapter) of the books that the built-in model was trained without the ends of.

    Args:
        folder: with the books, .txt or .txt.gz; None for those below SLIPSTREAM_SHARED.

    Raises:
        InputError: a book is not there, or it is another edition than the recipe's.
    """
    if folder is None and not os.environ.get(SHARED):
        raise InputError(f"books: the held-out chapters are no part of the package; give --books FOLDER, --text FILE, or set {SHARED}")
    folder = folder or Path(os.environ[SHARED]) / BOOKS
    chapters = []
    for wanted in json.loads((BUILTIN / "demo" / "training.json").read_text())["books"]:
        if not wanted["held_out"]:
            continue
        paths = [path for ending in (".txt.gz", ".txt") if (path := folder / (wanted["title"] + ending)).is_file()]
        if not paths:
            raise InputError(f"books={str(folder)!r}: no {wanted['title']}.txt or .txt.gz there; it is Project Gutenberg's. Or give --text")
        book = read_book(paths[0])
        if book.sha256 != wanted["sha256"]:
            raise InputError(f"{paths[0]}: sha256 is {book.sha256}, not {wanted['sha256']}: not the recipe's edition; get that one")
        chapters.append((book.title, book.held_out))
    return chapters


def plain(path: Path) -> tuple[str, str]:
    """(name, text) of a text file as it is.

    Raises:
        InputError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"text={str(path)!r}: {error}; give a text file in UTF-8") from None
