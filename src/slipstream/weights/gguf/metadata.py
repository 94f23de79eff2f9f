"""The metadata of one GGUF file, asked key by key. Owns what a missing, odd or unread key leads to; must not know any architecture.

Key names: ggml-org/llama.cpp, docs/gguf.md and gguf-py/gguf/constants.py.
"""

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any

from slipstream.base.errors import CheckpointError

WAY_OUT = "take the *.safetensors version of the model"
# key behind the architecture -> field of config.json, as most architectures have them
FIELDS = {
    "embedding_length": "hidden_size", "block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings", "rope.freq_base": "rope_theta", "attention.sliding_window": "sliding_window",
}  # fmt: skip
HARMLESS = ("vocab_size", "tensor_data_layout", "pooling_type", "rope.scaling.finetuned")  # say what is known otherwise, or concern others


class Metadata:
    """Keys are given without the architecture before them.

    Args:
        values: all metadata of a file.
        shapes: tensor name -> shape.
        numbers: function of a tensor name -> its numbers.
    """

    def __init__(self, values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], numbers: Callable[[str], list[float]]):
        self._prefix = f"{values['general.architecture']}."
        self._values = {key.removeprefix(self._prefix): shortest(value) for key, value in values.items() if key.startswith(self._prefix)}
        self._asked: set[str] = set()
        self.shapes, self.numbers = shapes, numbers

    def get(self, key: str, default: Any = None) -> Any:
        """A value that holds for all layers: given once, or alike for each; layers that differ are refused."""
        value = self.each(key)
        if not isinstance(value, list):
            return default if value is None else value
        if not value or any(item != value[0] for item in value):
            raise self.error(key, f"layers that differ are not supported; {WAY_OUT}")
        return value[0]

    def each(self, key: str) -> Any:
        """The raw value, which may be a list with one for each layer; None if absent."""
        self._asked.add(key)
        return self._values.get(key)

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1."""
        value = self.get(key, default)
        if value is None:
            raise CheckpointError(f"{self._prefix}{key}: is missing; fetch the file again, or {WAY_OUT}")
        if type(value) is not int or not 1 <= value < 2**31:
            raise self.error(key, "must be a whole number of at least 1; fetch the file again")
        return value

    def width(self, key: str, tensor: str) -> int:
        """A width that old files do not state: then it is the last dimension of a tensor."""
        return self.whole(key, self.shapes[tensor][-1] if tensor in self.shapes else None)

    def unread(self) -> list[str]:
        """Keys that nobody asked for and that may mean something: an expert count of 0 says that there are none."""
        left = set(self._values) - self._asked - set(HARMLESS)
        return sorted(key for key in left if not (key.startswith("expert_") and self._values[key] == 0))

    def asked(self, key: str) -> bool:
        """Whether somebody read it."""
        return key in self._asked

    def error(self, key: str, what: str) -> CheckpointError:
        """The refusal of a value."""
        shown = repr(self._values.get(key))
        return CheckpointError(f"{self._prefix}{key}={shown if len(shown) <= 100 else shown[:97] + '...'}: {what}")


def shortest(value: Any) -> Any:
    """The shortest decimal of a 32-bit float: 9.999999747e-06 was written as 1e-05."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    for digits in range(1, 10):
        short = float(f"{value:.{digits}g}")
        if abs(short) < 3e38 and struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return value


def windowed(file: Metadata, period: int, layers: Any) -> list[str]:
    """`layer_types` of a model in which the last of every `period` layers sees all positions and the others a window.

    Args:
        period: where no key says it; llama.cpp knows it by the architecture.
        layers: how many there are.
    """
    key = "attention.sliding_window_pattern"
    pattern, count = file.each(key), layers if type(layers) is int and 0 < layers < 100_000 else 0
    if isinstance(pattern, list):
        if len(pattern) != count or any(type(narrow) is not bool for narrow in pattern):
            raise file.error(key, f"must be a truth value for each of {count} layers; fetch the file again")
    else:
        period = file.whole(key, period)
        pattern = [number % period < period - 1 for number in range(count)]
    return ["sliding_attention" if narrow else "full_attention" for narrow in pattern]


def rotated_share(file: Metadata, config: Mapping[str, Any]) -> float:
    """Which part of a head is rotated, for `partial_rotary_factor`: a hair more than the quotient, so that times the width and cut to
    a whole number it is the count again."""
    key = "rope.dimension_count"
    count, width = file.get(key), head_width(config)
    if count is None or count == width:
        return 1.0
    if type(count) is not int or width is None or not 0 < count < width:
        raise file.error(key, f"must be a part of the width of a head, {width}; fetch the file again")
    return math.nextafter(count / width, 2)


def head_width(config: Mapping[str, Any]) -> int | None:
    """`head_dim`, stated or not; None if the fields it follows from are no good."""
    hidden, heads = config.get("hidden_size"), config.get("num_attention_heads")
    return config.get("head_dim") or (hidden // heads if type(hidden) is int and type(heads) is int and heads > 0 else None)
