"""Books as training text: reading, unwrapping, held-out chapters.

Owns what happens to a plain-text book between the file and the tokenizer. Knows nothing of tokens or models. The books
themselves are not part of the project: a recipe names titles and hashes, the user brings the files.
"""

import gzip
import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from slipstream.base.errors import InputError

# Chapters that are never trained on: from the *last* occurrence of the heading to the end of the book.
HELD_OUT = {
    "a-tale-of-two-cities": "XV. The Footsteps Die Out For Ever",
    "adventures-of-huckleberry-finn": "CHAPTER THE LAST",
    "alice-s-adventures-in-wonderland": "CHAPTER XII. Alice’s Evidence",
    "great-expectations": "Chapter LIX",
    "middlemarch": "FINALE.",
    "moby-dick-or-the-whale": "CHAPTER 135. The Chase.—Third Day.",
    "the-adventures-of-sherlock-holmes": "XII. THE ADVENTURE OF THE COPPER BEECHES",
    "the-brothers-karamazov": "Chapter III. Ilusha’s Funeral. The Speech At The Stone",
}

_PUNCTUATION = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "\u00a0": " ", "_": None, "\ufeff": None})
_WRAPPED = 50  # a line at least this long was broken by the typesetter, a shorter one by the author (verse, headings)


@dataclass(frozen=True)
class Book:
    """One book, split into the text to train on and the chapter kept for measuring."""

    title: str
    sha256: str
    train: str
    held_out: str


def read_book(path: Path) -> Book:
    """Reads `path` (.txt or .txt.gz, UTF-8) and splits off its held-out chapter, if the recipe names one."""
    data = path.read_bytes()
    raw = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    title = path.name.removesuffix(".gz").removesuffix(".txt")
    raw = raw.replace("\r\n", "\n")
    heading = HELD_OUT.get(title)
    cut = len(raw)
    if heading is not None:
        cut = raw.rfind(heading)
        if cut < 0:
            raise InputError(f"{path}: the held-out chapter {heading!r} is not in this edition; use the edition of the recipe")
    return Book(title, hashlib.sha256(raw.encode()).hexdigest(), unwrap(raw[:cut]), unwrap(raw[cut:]))


def unwrap(text: str) -> str:
    """Joins hard-wrapped lines to paragraphs separated by one blank line; ASCII quotes; no editor's marks."""
    text = text.translate(_PUNCTUATION)
    text = re.sub(r"\[Illustration[^\]]*\]", "", text)
    text = re.sub(r"\s*--+\s*", "—", text)
    paragraphs = []
    for block in re.split(r"\n[ \t]*\n", text):
        lines = [re.sub(r"[ \t]+", " ", line).strip() for line in block.split("\n")]
        lines = [line for line in lines if line]
        if not lines or not any(character.isalpha() for character in block):
            continue
        joined = lines[0]
        for previous, line in pairwise(lines):
            joined += (" " if len(previous) >= _WRAPPED else "\n") + line
        paragraphs.append(joined)
    return "\n\n".join(paragraphs) + ("\n" if paragraphs else "")
