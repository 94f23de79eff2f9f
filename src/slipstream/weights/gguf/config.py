"""From the metadata of a GGUF file to the config.json that it stands for. What the tables do not know is refused by name.

Owns the order of questions; what one architecture means is in `kinds`. Must not know how tensors are stored.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import CheckpointError
from slipstream.weights.gguf.metadata import WAY_OUT, Metadata, head_width
from slipstream.weights.gguf.rope import rope_scaling

KINDS = "slipstream.weights.gguf.kinds"
ROPE_BASE = 10000.0  # where the key is absent


def kind_of(metadata: Mapping[str, Any]) -> ModuleType:
    """The file in `kinds` for the architecture of a file. Raises CheckpointError if there is none."""
    name, known = metadata.get("general.architecture"), registry.names(KINDS)
    if not isinstance(name, str) or name.replace("-", "_") not in known:
        shown = ", ".join(known)
        raise CheckpointError(f"general.architecture={name!r}: is not supported as GGUF; supported: {shown}; {WAY_OUT}")
    return registry.load(KINDS, name.replace("-", "_"))


def to_config(metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], numbers: Callable[[str], list[float]]) -> dict[str, Any]:
    """The config.json that belongs to a file.

    Args:
        metadata: of the file.
        shapes: tensor name, as in the file -> shape.
        numbers: function of a tensor name -> its numbers.

    Raises:
        CheckpointError: a key is missing, or asks for something that the tables do not know.
    """
    kind, file = kind_of(metadata), Metadata(metadata, shapes, numbers)
    if "token_embd.weight" not in shapes:
        raise CheckpointError("tensor 'token_embd.weight' is missing: the file holds no weights; take the model's own file")
    config: dict[str, Any] = {
        "architectures": [kind.ARCHITECTURE],
        "vocab_size": shapes["token_embd.weight"][0],
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    for key, field in kind.FIELDS.items():
        value = file.get(key, ROPE_BASE if key == "rope.freq_base" else None)
        if value is not None:
            config[field] = value
    scaling = rope_scaling(file, config)
    if scaling is not None:
        config["rope_scaling"] = scaling
    if hasattr(kind, "complete"):
        kind.complete(file, config)
    _check_heads(file, config)
    if file.unread():
        raise file.error(file.unread()[0], f"has no known meaning for this architecture; {WAY_OUT}")
    return config


def _check_heads(file: Metadata, config: Mapping[str, Any]) -> None:
    """Rope over a part of the head, or values of another width than keys, would be computed wrong where the kind did not ask."""
    width = head_width(config)
    for key in ("rope.dimension_count", "attention.value_length"):
        if not file.asked(key) and file.get(key, width) != width:
            raise file.error(key, f"is not the width of a head, {width}; that is not supported; {WAY_OUT}")
