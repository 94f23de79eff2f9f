"""The tokenizer in a GGUF file's metadata. Owns its keys (ggml-org/llama.cpp, docs/gguf.md); must not know tensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models
from tokenizers import Tokenizer as Backend

from slipstream.base.errors import InputError
from slipstream.files import gguf
from slipstream.text.presplit import kind_of, pre_tokenizer
from slipstream.text.scored import CONTROL, NORMAL, UNKNOWN, USER, Piece, Rules, build, surround

_KEY = "tokenizer.ggml."
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# control tokens that end a turn, whatever the file names as its end of text
_TURN_ENDS = frozenset(("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|return|>", "<|call|>"))
_WAY_OUT = "give prompts as token ids, or take the model's folder with tokenizer.json"


def load(path: Path) -> tuple[Backend, tuple[int, ...]]:
    """(tokenizer, ids that end a text) of a GGUF file.

    Raises:
        InputError: there is no vocabulary, it is damaged, or of another kind than BPE and SentencePiece.
    """
    return of_metadata(gguf.read(path).metadata, str(path))


def of_metadata(metadata: Mapping[str, Any], where: str) -> tuple[Backend, tuple[int, ...]]:
    """See `load`."""
    kind = metadata.get(f"{_KEY}model")
    if kind not in ("gpt2", "llama"):
        known = "gpt2 (BPE), llama (SentencePiece)"
        raise InputError(f"{where}: tokenizer.ggml.model={kind!r} is not supported; supported: {known}; {_WAY_OUT}")
    pieces = _pieces(metadata, where)
    before, after = _around(metadata, pieces, where)
    if kind == "llama":
        prefix = "always" if metadata.get(f"{_KEY}add_space_prefix", True) else ""
        backend = build(pieces, Rules(prefix=prefix, before=before, after=after), where)
    else:
        backend = _byte_level(metadata, pieces, where)
        surround(backend, pieces, before, after, where)
    return backend, _ends(metadata, pieces)


def _pieces(metadata: Mapping[str, Any], where: str) -> list[Piece]:
    tokens = metadata.get(f"{_KEY}tokens")
    if not isinstance(tokens, list) or not tokens or not isinstance(tokens[0], str):
        raise InputError(f"{where}: has no tokenizer.ggml.tokens; {_WAY_OUT}")
    kinds = metadata.get(f"{_KEY}token_type", [NORMAL] * len(tokens))
    scores = metadata.get(f"{_KEY}scores", [0.0] * len(tokens))
    for name, values, type_ in (("token_type", kinds, int), ("scores", scores, float)):
        if not isinstance(values, list) or len(values) != len(tokens) or not isinstance(values[0], type_):
            raise InputError(f"{where}: tokenizer.ggml.{name} does not belong to {len(tokens)} tokens; fetch the file again")
    return list(map(Piece, tokens, scores, kinds))


def _around(metadata: Mapping[str, Any], pieces: list[Piece], where: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and after every text."""
    scored = metadata.get(f"{_KEY}model") == "llama"
    bos = scored or kind_of(metadata.get(f"{_KEY}pre"), where).bos
    out = []
    for name, default in (("bos", bos), ("eos", False)):
        number = metadata.get(f"{_KEY}{name}_token_id", (1 if name == "bos" else 2) if scored else None)
        out.append((number,) if metadata.get(f"{_KEY}add_{name}_token", default) and number is not None else ())
    if any(type(number) is not int or not 0 <= number < len(pieces) for ids in out for number in ids):
        raise InputError(f"{where}: bos_token_id or eos_token_id is not in the vocabulary of {len(pieces)}; fetch the file again")
    return out[0], out[1]


def _byte_level(metadata: Mapping[str, Any], pieces: list[Piece], where: str) -> Backend:
    kind = kind_of(metadata.get(f"{_KEY}pre"), where)
    merges = metadata.get(f"{_KEY}merges")
    if not isinstance(merges, list) or not all(isinstance(merge, str) and " " in merge[1:] for merge in merges):
        raise InputError(f"{where}: tokenizer.ggml.merges must be a list of pairs; fetch the file again")
    pairs = []
    for merge in merges:
        at = merge.index(" ", 1)
        pairs.append((merge[:at], merge[at + 1 :]))
    try:
        texts = [piece.text for piece in pieces]
        backend = Backend(models.BPE(dict(zip(texts, range(len(texts)), strict=True)), pairs, ignore_merges=kind.whole))
    except Exception as error:  # tokenizers raises plain Exception
        raise InputError(f"{where}: the vocabulary cannot be used ({error}); fetch the file again") from error
    backend.pre_tokenizer = pre_tokenizer(kind)
    backend.decoder = decoders.ByteLevel()
    odd = [piece for piece in pieces if piece.kind != NORMAL and piece.text]
    special = [piece.text for piece in odd if piece.kind in (CONTROL, UNKNOWN)]
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    own = [piece.text for piece in odd if piece.kind == USER]
    backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in own])
    return backend


def _ends(metadata: Mapping[str, Any], pieces: list[Piece]) -> tuple[int, ...]:
    usual = 2 if metadata.get(f"{_KEY}model") == "llama" else None
    named = [metadata.get(f"{_KEY}{name}", usual if name == "eos_token_id" else None) for name in _ENDS]
    turns = [number for number, piece in enumerate(pieces) if piece.text in _TURN_ENDS and piece.kind in (CONTROL, USER)]
    return tuple(dict.fromkeys(number for number in (*named, *turns) if type(number) is int and 0 <= number < len(pieces)))
