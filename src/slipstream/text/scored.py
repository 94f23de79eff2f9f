"""Vocabularies of the SentencePiece kinds as `tokenizers` objects: pieces with scores, joined by score (BPE) or by likelihood (unigram).

Kudo & Richardson 2018. Owns the translation; must not know the files that such vocabularies come from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend

from slipstream.base.errors import InputError

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)  # kinds of pieces, as in sentencepiece_model.proto and in GGUF
SPACE = "▁"


class Piece(NamedTuple):
    """One entry of a vocabulary: its text, score and kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Rules:
    """What happens to a text around the vocabulary.

    Attributes:
        unigram: likeliest cut instead of BPE.
        prefix: a space is put before a text: "" never, "first" at its beginning, "always" after every special token too.
        charsmap: SentencePiece's compiled normalisation rules, empty for none.
        collapse: runs of spaces become one, none stays at the ends.
        before, after: ids put around every text.
    """

    unigram: bool = False
    prefix: str = "always"
    charsmap: bytes = b""
    collapse: bool = False
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()


def build(pieces: Sequence[Piece], rules: Rules, where: str) -> Backend:
    """The `tokenizers` object of a vocabulary; ids are places in `pieces`.

    Raises:
        InputError: the pieces contradict each other.
    """
    byte = any(piece.kind == BYTE for piece in pieces)
    unknown = next((number for number, piece in enumerate(pieces) if piece.kind == UNKNOWN), None)
    if rules.unigram and unknown is None:
        raise InputError(f"{where}: a unigram vocabulary needs a piece for unknown characters; fetch the file again")
    try:
        if rules.unigram:
            scores = [(piece.text, piece.score) for piece in pieces]
            backend = Backend(models.Unigram(scores, unk_id=unknown, byte_fallback=byte))
        else:
            vocab = {piece.text: number for number, piece in enumerate(pieces)}
            name = None if unknown is None else pieces[unknown].text
            backend = Backend(models.BPE(vocab, _merges(pieces, rules), unk_token=name, fuse_unk=True, byte_fallback=byte))
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{where}: the vocabulary cannot be used ({error}); fetch the file again") from error
    _wire(backend, rules)
    _add(backend, pieces, rules)
    surround(backend, pieces, rules.before, rules.after, where)
    return backend


def surround(backend: Backend, pieces: Sequence[Piece], before: Sequence[int], after: Sequence[int], where: str) -> None:
    """Puts ids around every text that is encoded with special tokens."""
    if not before and not after:
        return
    outside = [number for number in (*before, *after) if not 0 <= number < len(pieces)]
    if outside:
        raise InputError(f"{where}: special token id {outside[0]} is not in the vocabulary of {len(pieces)}; fetch the file again")
    names = [(pieces[number].text, number) for number in dict.fromkeys((*before, *after))]
    template = [*(pieces[number].text for number in before), "$A", *(pieces[number].text for number in after)]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=names)


def _merges(pieces: Sequence[Piece], rules: Rules) -> list[tuple[str, str]]:
    """BPE by score: of all neighbours that together are a piece, the best scored joins first. So every cut of every piece
    into two pieces is a merge, ranked by the score of the whole."""
    known = {piece.text: number for number, piece in enumerate(pieces) if piece.kind in (NORMAL, USER, UNUSED)}
    found = []
    for text, number in known.items():
        if pieces[number].kind == USER and not _in_vocabulary_only(text, rules):
            continue
        cuts = [(text[:at], text[at:]) for at in range(1, len(text))]
        cuts = sorted((cut for cut in cuts if cut[0] in known and cut[1] in known), key=lambda cut: (known[cut[0]], known[cut[1]]))
        found.extend((-pieces[number].score, *cut) for cut in cuts)
    found.sort(key=lambda merge: merge[0])
    return [(left, right) for _, left, right in found]


def _in_vocabulary_only(text: str, rules: Rules) -> bool:
    """A user-defined piece with a space cannot be cut out of a text before the space prefix is put there."""
    return SPACE in text and bool(rules.prefix)


def _wire(backend: Backend, rules: Rules) -> None:
    """Normaliser, pre-tokenizer and decoder."""
    steps = [normalizers.Precompiled(rules.charsmap)] if rules.charsmap else []
    if rules.collapse:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.prefix == "first" or rules.unigram:
        scheme = {"": "never"}.get(rules.prefix, rules.prefix)
        backend.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend_scheme=scheme, split=rules.unigram)
    else:
        steps += [normalizers.Prepend(SPACE)] if rules.prefix else []
        steps.append(normalizers.Replace(" ", SPACE))
    if steps:
        backend.normalizer = normalizers.Sequence(steps)
    stages = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*stages, decoders.Strip(" ", 1, 0)] if rules.prefix else stages)


def _add(backend: Backend, pieces: Sequence[Piece], rules: Rules) -> None:
    """Pieces that are cut out of a text before anything else."""
    special = [piece.text for piece in pieces if piece.kind in (CONTROL, UNKNOWN) and piece.text]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    own = [piece.text for piece in pieces if piece.kind == USER and piece.text and not _in_vocabulary_only(piece.text, rules)]
    backend.add_tokens([AddedToken(text, special=False, normalized=SPACE in text) for text in own])
