"""Small tokenizers of the kinds that language models use, and the real ones of the shared data."""

import gzip
import os
from functools import cache
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SHARED = Path(os.environ.get("SLIPSTREAM_SHARED", Path(__file__).resolve().parents[3] / "shared"))
REAL = ("falcon", "gpt-neox-20b", "llama2", "phi-3-mini", "t5-small")
SMALL = ("byte_level", "byte_fallback", "byte_fallback_no_strip", "metaspace", "plain")
CORPUS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Всё смешалось в доме Облонских. 話說天下大勢，分久必合，合久必分。 🙂🙂 👩‍🚀 é e\u0301",
)
SPECIAL = [AddedToken("<s>", special=True), AddedToken("</s>", special=True)]


@cache
def small(kind: str) -> Tokenizer:
    return {"byte_level": _byte_level, "metaspace": _metaspace, "plain": _plain}.get(kind, lambda: _byte_fallback(kind))()


@cache
def real(name: str) -> Tokenizer:
    folder = SHARED / "data/tokenizers/hf" / name
    for path in (folder / "tokenizer.json", folder / "tokenizer.json.gz"):
        if path.is_file():
            raw = path.read_bytes()
            return Tokenizer.from_str((gzip.decompress(raw) if path.suffix == ".gz" else raw).decode())
    pytest.skip(f"no tokenizer {name} under {SHARED}; set SLIPSTREAM_SHARED")


def backend(name: str) -> Tokenizer:
    return small(name) if name in SMALL else real(name)


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, special_tokens=SPECIAL)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("日本", special=False)])
    return tokenizer


def _byte_fallback(kind: str) -> Tokenizer:
    """As Llama 2 (with Strip) and Gemma (without)."""
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁a", "▁▁", "é", "日", "."]
    vocab = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab, [("a", "b"), ("▁", "a"), ("▁", "▁")], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    stages = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(stages if kind.endswith("no_strip") else [*stages, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken("<unk>", special=True), *SPECIAL])
    return tokenizer


def _metaspace() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁", -1.0), ("▁the", -2.0), ("a", -3.0), ("▁▁x", -3.0), ("日", -3.0)], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def _plain() -> Tokenizer:
    """No decoder: pieces are joined with spaces."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2, "日": 3}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
