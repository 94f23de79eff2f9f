"""Where a canonical parameter lies in a family's checkpoints, and what has to be done to it at load. Must not know any family's table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from slipstream.arch.spec import AttentionSpec, ModelSpec, TensorSpec


@dataclass(frozen=True, slots=True)
class Place:
    """A parameter in a checkpoint.

    Attributes:
        name: of the stored tensor.
        shape: of the stored tensor, all of it.
        number: it is this one of a stack along the first dimension of the stored tensor; None: it is no stack.
        transposed: it is stored as [inputs, outputs].
        rows: which rows (outputs) of it, in this order, after transposing; None for all as they are.
        columns: which columns (inputs) of it, after transposing; None for all.
        plus: a norm's weight is stored + plus, in fp32.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    rows: Sequence[int] | None = None
    plus: float = 0.0
    number: int | None = None
    columns: range | None = None


def place_of(family: ModuleType, spec: ModelSpec, parameter: TensorSpec) -> Place:
    """Where `parameter` of `spec` lies: as the family's `place` says, or whole under its name in NAMES.

    Raises:
        KeyError: the family's table lacks it.
    """
    find = getattr(family, "place", None)
    return find(spec, parameter) if find else whole(family.NAMES, parameter)


def whole(names: Mapping[str, str], parameter: TensorSpec) -> Place:
    """A parameter that is stored as a tensor of its own, in its own shape."""
    return Place(checkpoint_name(names, parameter.name), parameter.shape)


def checkpoint_name(names: Mapping[str, str], canonical: str) -> str:
    """The checkpoint's name of a canonical one: "layers.3.mixer.q.weight" -> "model.layers.3.self_attn.q_proj.weight".

    Args:
        names: a family's NAMES table.
        canonical: a name of `arch.tensors`.

    Raises:
        KeyError: the family's table lacks it.
    """
    stem, ending = canonical.rsplit(".", 1)
    numbers = [part for part in stem.split(".") if part.isdigit()]  # of the layer and of the expert
    return f"{names[pattern(canonical)].format(*numbers)}.{ending}"


def pattern(canonical: str) -> str:
    """A canonical name without its numbers and its ending: "layers.3.mixer.q.weight" -> "layers.{}.mixer.q"."""
    return ".".join("{}" if part.isdigit() else part for part in canonical.split(".")[:-1])


def heads(count: int, head_dim: int, order: Sequence[int] | None = None, start: int = 0, step: int = 0) -> Sequence[int]:
    """Rows of some heads in a fused tensor.

    Args:
        count: heads.
        head_dim: rows of each.
        order: where each row of a head lies within it; None as they are.
        start: row at which the first head begins.
        step: rows from one head to the next; 0 for head_dim.
    """
    step = step or head_dim
    if order is None and step == head_dim:
        return range(start, start + count * head_dim)
    inner = range(head_dim) if order is None else order
    return tuple(start + head * step + row for head in range(count) for row in inner)


def stacked(mixer: AttentionSpec, part: str, order: Sequence[int] | None = None) -> Sequence[int]:
    """Rows of "q", "k" or "v" in a tensor that holds all heads of q, then those of k, then those of v.

    Args:
        order: see `heads`; v keeps its own.
    """
    before = {"q": 0, "k": mixer.heads, "v": mixer.heads + mixer.kv_heads}[part]
    count = mixer.heads if part == "q" else mixer.kv_heads
    return heads(count, mixer.head_dim, None if part == "v" else order, before * mixer.head_dim)


def grouped(mixer: AttentionSpec, part: str, order: Sequence[int] | None = None) -> Sequence[int]:
    """Rows of "q", "k" or "v" in a tensor that holds, per key/value head, its query heads, then its key, then its value.

    Args:
        order: see `heads`; v keeps its own.
    """
    d, group = mixer.head_dim, mixer.heads // mixer.kv_heads
    step = (group + 2) * d
    if part != "q":
        return heads(mixer.kv_heads, d, None if part == "v" else order, (group + (part == "v")) * d, step)
    if mixer.kv_heads == 1:
        return heads(group, d, order)
    return tuple(row for number in range(mixer.kv_heads) for row in heads(group, d, order, number * step))
