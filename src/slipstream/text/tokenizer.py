"""Tokenizer of a model folder. Owns encoding, decoding and the model's end-of-text ids; knows nothing of streams."""

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from slipstream.base.errors import InputError
from slipstream.files.folder import model_gguf
from slipstream.text.gguf_vocabulary import load as load_gguf
from slipstream.text.gguf_vocabulary import of_metadata
from slipstream.text.pieces import Pieces
from slipstream.text.sentencepiece import load as load_sentencepiece

FILE = "tokenizer.json"
SCORED = "tokenizer.model"
OTHER_KINDS = {
    "spiece.model": "SentencePiece file",
    "sentencepiece.bpe.model": "SentencePiece file",
    "tekken.json": "Tekken file",
    "tiktoken.model": "tiktoken file",
    "vocab.json": "BPE vocabulary without its pipeline",
    "vocab.txt": "WordPiece vocabulary without its pipeline",
}


class Tokenizer:
    """Text to token ids and back. Nothing here touches the network.

    Args:
        backend: the vocabulary and its pipeline; its truncation and padding are switched off.
        ends: ids that end a text.

    Raises:
        InputError: the decoder is of a kind that cannot be streamed.
    """

    def __init__(self, backend: Backend, ends: tuple[int, ...] = ()):
        backend.no_truncation()
        backend.no_padding()
        self.ends = ends
        self.pieces = Pieces(backend)
        self._backend = backend

    @staticmethod
    def present(folder: Path | str) -> bool:
        """Whether a model has tokenizer files, of kinds that can be read or not; True for a path that is no folder."""
        folder = Path(folder)
        return not folder.is_dir() or any((folder / name).is_file() for name in (FILE, SCORED, *OTHER_KINDS)) or any(folder.glob("*.gguf"))

    @staticmethod
    def load(folder: Path | str, metadata: Mapping[str, Any] | None = None) -> "Tokenizer":
        """Reads the tokenizer and the end-of-text ids of a model: a folder, or a GGUF file, whose `metadata` may have been read already.

        Of a folder: `tokenizer.json`, else `tokenizer.model`; the ids come from the first of generation_config.json,
        config.json, tokenizer_config.json that names any, else from the tokenizer itself.

        Raises:
            InputError: the file is absent, broken, or of another kind.
        """
        folder = Path(folder)
        file = model_gguf(folder)
        if file is not None and not (folder / FILE).is_file():
            return Tokenizer(*(of_metadata(metadata, str(file)) if metadata else load_gguf(file)))
        path = folder / FILE
        if not path.is_file() and (folder / SCORED).is_file():
            backend, own = load_sentencepiece(folder / SCORED)
            return Tokenizer(backend, _ends(folder, backend) or own)
        if not path.is_file():
            raise InputError(_absent(folder))
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # tokenizers raises plain Exception for whatever it cannot read
            raise InputError(f"{path}: not a tokenizer that `tokenizers` can read ({error}); fetch the file again") from error
        return Tokenizer(backend, _ends(folder, backend))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; with `special`, those that the tokenizer puts around every text (such as BOS) too."""
        if not isinstance(text, str):
            raise InputError(f"prompt={text!r}: must be a string; token ids need no encoding")
        try:
            return self._backend.encode(text, add_special_tokens=special).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise InputError(f"prompt={text[:40]!r}: holds a lone surrogate, which is no character; decode the source as UTF-8") from error

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of a whole sequence. See `slipstream.text.pieces` for malformed bytes; unknown ids add nothing."""
        text = self.pieces.join(ids, skip_special).decode("utf-8", self.pieces.errors)
        leading = len(text) - len(text.lstrip(self.pieces.trim_char))
        return text[min(leading, self.pieces.trim) :]

    @cached_property
    def vocab_size(self) -> int:
        """All ids are below it: the largest one + 1. A model may have more rows."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, which does not say what ends a text."""
        self._backend.save(str(folder / FILE))

    def token_bytes(self, token: int) -> bytes:
        """What `token` adds inside a text, special tokens by their name; empty for an unknown id."""
        return self.pieces.get(token, False) or b""

    def token_text(self, token: int) -> str:
        """`token_bytes` as text; bytes that are no complete character read as U+FFFD."""
        return self.token_bytes(token).decode("utf-8", self.pieces.errors)

    def token_id(self, text: str) -> int | None:
        """The id of the token that is written `text` in the vocabulary, if there is one."""
        return self._backend.token_to_id(text)


def _absent(folder: Path) -> str:
    """Why there is no tokenizer in `folder`, and the way out."""
    if not folder.is_dir():
        return f"{folder}: no such folder; give the folder that holds {FILE}"
    for name, kind in OTHER_KINDS.items():
        if (folder / name).is_file():
            convert = "transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            return f"{folder}: has {name} ({kind}) but no {FILE}; convert it with `{convert}`"
    return f"{folder}: no {FILE}; copy it from the model's source, or give prompts as token ids"


def _ends(folder: Path, backend: Backend) -> tuple[int, ...]:
    """End-of-text ids that the folder's configs name, in their order; () if none does."""
    for name in ("generation_config.json", "config.json"):
        config = _json(folder / name)
        ids = config.get("eos_token_id")
        if ids is None and isinstance(config.get("text_config"), dict):
            ids = config["text_config"].get("eos_token_id")
        if ids is not None:
            ids = ids if isinstance(ids, list) else [ids]
            if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in ids):
                raise InputError(f"{folder / name}: eos_token_id={ids!r}: must be one token id or a list of them")
            return tuple(dict.fromkeys(ids))
    text = _json(folder / "tokenizer_config.json").get("eos_token")
    text = text.get("content") if isinstance(text, dict) else text
    if text is None:
        return ()
    token = backend.token_to_id(text)
    if token is None:
        place = folder / "tokenizer_config.json"
        raise InputError(f"{place}: eos_token={text!r}: not in {FILE}; name eos_token_id in generation_config.json")
    return (token,)


def _json(path: Path) -> dict:
    """The object in a JSON file; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path}: must hold a JSON object, found {type(config).__name__}")
    return config
