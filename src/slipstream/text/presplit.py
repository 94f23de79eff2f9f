"""How GGUF's named kinds of byte-level BPE cut a text into words before merging. Data, and its translation to `tokenizers`.

The names are those of `tokenizer.ggml.pre` (ggml-org/llama.cpp, gguf-py and src/llama-vocab.cpp); the patterns are the ones that
the models' makers published in their tokenizer.json or tiktoken tables. Only kinds whose encodings are tested are here.
"""

from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import PreTokenizer

from slipstream.base.errors import InputError

_TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LLAMA3 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_TAIL}"
_QWEN2 = rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_TAIL}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}?|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
_CASED = r"[\p{Lu}\p{Ll}\p{Lt}]"
_MARKS = "[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]"  # ASCII from ! on but digits; their full-width forms; quotes
_EAST = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]"


@dataclass(frozen=True)
class Kind:
    """One way to cut.

    Attributes:
        names: in `tokenizer.ggml.pre`.
        splits: patterns, one after the other; each match is a word of its own.
        gpt2: GPT-2's pattern cuts what is left.
        whole: a word that is in the vocabulary is taken as it is, without merging.
        bos: a text begins with BOS unless the file says otherwise.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...] = ()
    gpt2: bool = False
    whole: bool = False
    bos: bool = False


KINDS = (
    Kind(("gpt-2", "phi-2", "gigachat", "roberta-bpe", "mpt", "olmo", "jais"), gpt2=True),
    Kind(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), (r"\p{N}",), gpt2=True),
    Kind(("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), (_LLAMA3,), whole=True, bos=True),
    Kind(("dbrx", "smaug-bpe"), (_LLAMA3,)),
    Kind(("qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"), (_QWEN2,)),
    Kind(("gpt-4o", "llama4"), (_O200K,)),
    Kind(("deepseek-llm",), (r"[\r\n]", rf"\s?{_CASED}+", rf"\s?{_MARKS}+", r"\s+$", rf"{_EAST}+", r"\p{N}")),
    Kind(("deepseek-v3",), (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)),
    Kind(("tekken",), (_TEKKEN,), whole=True, bos=True),
    Kind(("falcon",)),
)


def kind_of(name: object, where: str) -> Kind:
    """Raises InputError for a name that is not in the table."""
    for kind in KINDS:
        if name in kind.names:
            return kind
    known = ", ".join(name for kind in KINDS for name in kind.names)
    raise InputError(
        f"{where}: tokenizer.ggml.pre={name!r} is not supported; supported: {known}; give prompts as token ids, "
        "or take the model's folder with tokenizer.json"
    )


def pre_tokenizer(kind: Kind) -> PreTokenizer:
    """The kind as a `tokenizers` object."""
    if "falcon" in kind.names:
        words = [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        digits = [pre_tokenizers.Digits(), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
        return pre_tokenizers.Sequence([*words, *digits])
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in kind.splits]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind.gpt2)])
