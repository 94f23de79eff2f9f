"""SentencePiece models (`tokenizer.model` of Llama 2, Mistral and others), read without the sentencepiece package.

Format: google/sentencepiece, src/sentencepiece_model.proto, in protobuf's wire format. Owns the reading of the file.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from slipstream.base.errors import InputError
from slipstream.text.scored import NORMAL, Piece, Rules, build

MAX_FILE = 100_000_000  # bytes; real ones have less than 5 MB
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _KIND = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BOS, _EOS = 3, 24, 41, 42
_CHARSMAP, _PREFIX, _COLLAPSE, _ESCAPE = 2, 3, 4, 5
_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_CONVERT = "convert it with `transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"


def load(path: Path) -> tuple[Backend, tuple[int, ...]]:
    """(tokenizer, ids that end a text) of a file. add_bos_token, add_eos_token and legacy come from tokenizer_config.json beside it.

    Raises:
        InputError: the file is damaged, or of a kind that cannot be translated.
    """
    if path.stat().st_size > MAX_FILE:
        raise InputError(f"{path}: larger than {MAX_FILE} bytes, which is no SentencePiece model; fetch the file again")
    data = path.read_bytes()
    if not data.startswith(b"\x0a"):
        raise InputError(f"{path}: is no SentencePiece model (perhaps a tiktoken file) and there is no tokenizer.json; {_CONVERT}")
    try:
        pieces, trainer, normalizer = _read(data)
    except (ValueError, IndexError, struct.error) as error:
        raise InputError(f"{path}: is a damaged SentencePiece model ({error}); fetch the file again") from error
    kind = trainer.get(_MODEL_TYPE, 1)
    if kind not in (1, 2) or trainer.get(_SUFFIX, 0) or not normalizer.get(_ESCAPE, 1):
        what = "spaces at the end of words" if kind in (1, 2) else f"model type {_TYPES.get(kind, kind)}"
        raise InputError(f"{path}: SentencePiece with {what} is not supported; supported: BPE, unigram; {_CONVERT}")
    bos, eos = _signed(trainer.get(_BOS, 1)), _signed(trainer.get(_EOS, 2))
    config = _config(path.with_name("tokenizer_config.json"))
    prefix = "first" if config.get("legacy") is False else "always"
    rules = Rules(
        unigram=kind == 1,
        prefix=prefix if normalizer.get(_PREFIX, 1) else "",
        charsmap=normalizer.get(_CHARSMAP, b""),
        collapse=bool(normalizer.get(_COLLAPSE, 1)),
        before=(bos,) if config.get("add_bos_token", kind == 2) and bos >= 0 else (),
        after=(eos,) if config.get("add_eos_token", False) and eos >= 0 else (),
    )
    return build(pieces, rules, str(path)), (eos,) if eos >= 0 else ()


def _read(data: bytes) -> tuple[list[Piece], dict[int, Any], dict[int, Any]]:
    """(pieces, fields of the trainer, fields of the normaliser). Raises ValueError and its like for what is not the format."""
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for field, value in _fields(data):
        if field == _PIECES:
            parts = dict(_fields(value))
            score = struct.unpack("<f", parts.get(_SCORE, bytes(4)))[0]
            pieces.append(Piece(parts.get(_TEXT, b"").decode("utf-8"), score, parts.get(_KIND, NORMAL)))
        elif field == _TRAINER:
            trainer = dict(_fields(value))
        elif field == _NORMALIZER:
            normalizer = dict(_fields(value))
    if not pieces or not all(isinstance(value, int) for value in (trainer.get(_MODEL_TYPE, 1), trainer.get(_BOS, 1), trainer.get(_EOS, 2))):
        raise ValueError("it has no pieces, or its settings are of the wrong type")
    return pieces, trainer, normalizer


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Fields of a message: (number, whole number or bytes)."""
    if not isinstance(data, bytes):
        raise ValueError("a message is expected where a number stands")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if size > len(data) - at:
            raise ValueError(f"{size} bytes are claimed at byte {at} of {len(data)}")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(number, position behind it)."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError(f"a number at byte {at} does not end")


def _signed(value: int) -> int:
    """-1 (none) is written as 2**64 - 1."""
    return value - 2**64 if value >= 2**63 else value


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    return config if isinstance(config, dict) else {}
