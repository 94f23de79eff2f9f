"""What a quantised safetensors checkpoint stores in place of a weight. The word that formats and loaders share."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slipstream.base.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Scheme:
    """How one checkpoint stores its quantised linear layers.

    A layer `x` whose tensor `x{joint}{key}` has one of `dtypes` is quantised; all others are plain floats.

    Attributes:
        name: the format, for messages.
        key: the tensor that makes a layer a quantised one ("qweight").
        dtypes: its possible types, as the safetensors header writes them.
        shape: shapes of the stored tensors by ending -> (n, k) of the weight.
        unpack: stored tensors by ending, and (n, k) -> fp32 [n, k].
        needed: further tensors that the layer must have.
        optional: tensors that it may have; unpack gets those that are there.
        unused: tensors that it may have and that do not change the weights (scales of activations).
        joint: between a layer's name and the endings of its stored tensors.
        weight: ending of the name of the unpacked weight.
        note: what else the user should know, for the one line that is logged.
        native: stored tensors, k -> the linear format that runs them as they are, or None; where it is absent, none does.
        lay_out: stored tensors, (n, k) -> what that format's kernel packs.
    """

    name: str
    key: str
    dtypes: tuple[str, ...]
    shape: Callable[[Mapping[str, Shape]], Shape]
    unpack: Callable[[Mapping[str, Tensor], Shape], Tensor]
    needed: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    note: str = ""
    native: Callable[[Mapping[str, Tensor], int], str | None] | None = None
    lay_out: Callable[[Mapping[str, Tensor], Shape], dict[str, Tensor]] | None = None
    joint: str = "."
    weight: str = ".weight"


def field(config: Mapping[str, Any], name: str, supported: tuple[Any, ...], default: Any, where: str, way_out: str) -> Any:
    """A field of a quantization_config that must be one of `supported`; refused by name otherwise."""
    value = config.get(name, default)
    if not any(value == item and type(value) is type(item) for item in supported):
        known = ", ".join(repr(item) for item in supported)
        raise CheckpointError(f"quantization_config ({where}): {name}={value!r} is not supported; supported: {known}; {way_out}")
    return value


def group(config: Mapping[str, Any], where: str) -> int:
    """`group_size`: weights along k that share a scale; -1 for a whole row."""
    value = config.get("group_size", -1)
    value = -1 if value is None else value
    if type(value) is not int or not (value == -1 or 1 <= value < 2**31):
        raise CheckpointError(f"quantization_config ({where}): group_size={value!r} must be -1 or a whole number above 0")
    return value


def pattern(names: list[str]) -> re.Pattern[str]:
    """Matches the module names of an `ignore` list: exact, or a regular expression behind "re:"."""
    parts = [name[3:] if name.startswith("re:") else re.escape(name) for name in names]
    return re.compile("|".join(parts) or r"(?!)")
