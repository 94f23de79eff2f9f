"""Canonical parameter names <-> names in a family's checkpoints. Must not know any family's table."""

from collections.abc import Mapping


def checkpoint_name(names: Mapping[str, str], canonical: str) -> str:
    """The checkpoint's name of a canonical one: "layers.3.mixer.q.weight" -> "model.layers.3.self_attn.q_proj.weight".

    Args:
        names: a family's NAMES table.
        canonical: a name of `arch.tensors`.

    Raises:
        KeyError: the family's table lacks it.
    """
    stem, ending = canonical.rsplit(".", 1)
    parts = stem.split(".")
    if parts[0] != "layers":
        return f"{names[stem]}.{ending}"
    pattern = ".".join(["layers", "{}", *parts[2:]])
    return f"{names[pattern].format(parts[1])}.{ending}"
