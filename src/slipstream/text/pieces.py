"""What each token id contributes to the text, as bytes. Owns the reading of a tokenizer's decoder; knows nothing of streams.

`tokenizers` decodes whole sequences: a list of pieces runs through a chain of decoder stages. The chains that language
models use treat each piece on its own, apart from three things: bytes are put together into characters, the very first
piece may lose its leading space, and so may the whole text. So the text is the UTF-8 reading of the concatenated bytes of
the pieces, and it can be made token by token at a constant cost. Chains that do not fit this are refused by name.

Malformed bytes read as U+FFFD: with a byte-level vocabulary one for each maximal invalid part (the Unicode standard's
recommended practice, as in `tokenizers`), with byte fallback one for each byte (as in SentencePiece). In one case this
differs from `tokenizers`, which blanks out *all* characters of a run of byte pieces when the run holds an invalid byte: that
can only be known at the end of the run, so such text could not be streamed.
"""

import codecs
import json
from collections.abc import Callable, Iterable

from tokenizers import Tokenizer as Backend

from slipstream.base.errors import InputError

KNOWN = ("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip")
REPLACEMENT = "\ufffd"
_PER_BYTE = "slipstream-replace-bytes"
_TextStage = Callable[[str, bool], str | bytes]


def _byte_of_char() -> dict[str, int]:
    """The alphabet of byte-level BPE (GPT-2): printable Latin-1 stands for itself, the other 68 bytes for U+0100 upwards."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    other = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + rank): byte for rank, byte in enumerate(other)}


_BYTE_OF_CHAR = _byte_of_char()


def _replace_each_byte(error: UnicodeError) -> tuple[str, int]:
    """Error handler of the byte-fallback reading: every byte of an invalid part is one U+FFFD."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return REPLACEMENT * (error.end - error.start), error.end


codecs.register_error(_PER_BYTE, _replace_each_byte)


class Pieces:
    """The bytes of every token id, and how the bytes of a sequence are read.

    Attributes:
        errors: error handler name for reading the bytes as UTF-8.
        trim: how many leading `trim_char` the whole text loses.
        special: ids of special tokens, which are skipped unless asked for.
    """

    def __init__(self, backend: Backend):
        self.errors = "replace"
        self.trim = 0
        self.trim_char = " "
        added = backend.get_added_tokens_decoder()
        self.special = frozenset(token for token, each in added.items() if each.special)
        self._added = frozenset(added)
        self._backend = backend
        self._bytes: dict[int, bytes | None] = {}
        self._stages: list[_TextStage] = []
        decoder = backend.decoder
        if decoder is None:
            self._stages.append(lambda text, first: text if first else " " + text)
        else:
            self._read(json.loads(decoder.__getstate__()))

    def get(self, token: int, first: bool) -> bytes | None:
        """Bytes of `token`; `first` if no piece comes before it. None for an id the vocabulary does not have, which
        decodes to nothing (models often have more rows than their tokenizer has tokens)."""
        if first:
            return self._make(token, True)
        if token not in self._bytes:
            self._bytes[token] = self._make(token, False)
        return self._bytes[token]

    def join(self, tokens: Iterable[int], skip_special: bool) -> bytes:
        """The bytes of a whole sequence."""
        parts: list[bytes] = []
        for token in tokens:
            if not (skip_special and token in self.special):
                data = self.get(token, not parts)
                if data is not None:
                    parts.append(data)
        return b"".join(parts)

    def _make(self, token: int, first: bool) -> bytes | None:
        try:
            text = self._backend.id_to_token(token)
        except (OverflowError, TypeError) as error:
            raise InputError(f"token id {token!r}: must be a whole number between 0 and 2**32 - 1") from error
        if text is None:
            return None
        for stage in self._stages:
            # an added token is cut out of the text itself: its "ü" is no byte, though `tokenizers` reads it as one
            out = text.encode() if stage is _byte_level and token in self._added else stage(text, first)
            if isinstance(out, bytes):
                return out
            text = out
        return text.encode()

    def _read(self, decoder: dict) -> None:
        """Turns the decoder's JSON into stages. Raises InputError if it is of a kind that cannot be read by pieces."""
        stages = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
        fused = False
        for stage in stages:
            kind = stage["type"]
            if kind == "Replace" and not fused:
                self._stages.append(_replace(stage))
            elif kind == "ByteFallback" and not fused:
                self.errors = _PER_BYTE
                self._stages.append(_byte_fallback)
            elif kind == "ByteLevel" and not fused:
                self._stages.append(_byte_level)
                fused = True
            elif kind == "Metaspace" and not fused:
                self._stages.append(_metaspace(stage))
            elif kind == "Fuse":
                fused = True
            elif kind == "Strip" and fused and stage["stop"] == 0 and not self.trim:
                self.trim, self.trim_char = stage["start"], stage["content"]
            else:
                names = " > ".join(each["type"] for each in stages)
                raise InputError(
                    f"tokenizer.json: decoder {names}: {kind} is not supported at this place (known: {', '.join(KNOWN)});"
                    " convert the tokenizer to a byte-level or a Metaspace decoder"
                )


def _byte_level(text: str, first: bool) -> bytes:
    """Every character stands for a byte; a piece with any other character (an added token) stands for itself."""
    data = [_BYTE_OF_CHAR.get(char) for char in text]
    return text.encode() if None in data else bytes(data)


def _byte_fallback(text: str, first: bool) -> str | bytes:
    """<0x41> is the byte 0x41."""
    if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
        digits = text[3:5]
        if all(digit in "0123456789abcdefABCDEF" for digit in digits):
            return bytes([int(digits, 16)])
    return text


def _replace(stage: dict) -> _TextStage:
    pattern, content = stage["pattern"].get("String"), stage["content"]
    if not pattern:
        raise InputError(f"tokenizer.json: decoder Replace with pattern {stage['pattern']!r}: only plain, non-empty strings are supported")
    return lambda text, first: text.replace(pattern, content)


def _metaspace(stage: dict) -> _TextStage:
    mark, drops_first = stage["replacement"], stage["prepend_scheme"] != "never"
    return lambda text, first: text.replace(mark, "" if first and drops_first else " ")
