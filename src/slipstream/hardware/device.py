"""Devices known by name: what their maker states, one TOML file each in devices/. Owns reading them; measures nothing."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipstream.base.errors import InputError

FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True, slots=True)
class Device:
    """Stated figures of a device.

    Attributes:
        name: as sold.
        kind: "cpu" or "cuda": whose arithmetic counts.
        memory: bytes.
        bandwidth: GB/s (1e9 bytes).
        peaks: Gop/s by kind of arithmetic, dense, a multiply-add counted as two.
    """

    name: str
    kind: str
    memory: int
    bandwidth: float
    peaks: Mapping[str, float]


def names(folder: Path = FOLDER) -> list[str]:
    """Names that `known` takes."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def known(name: str, folder: Path = FOLDER) -> Device:
    """The device of a file in devices/, in small or capital letters.

    Raises:
        InputError: there is none of this name, or its file is not complete; names the nearest and all others.
    """
    have = names(folder)
    if name.lower() not in have:
        near = difflib.get_close_matches(name.lower(), have, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"device={name!r}: unknown; {hint}known: cpu, cuda (this machine), {', '.join(have)}")
    path = folder / f"{name.lower()}.toml"
    try:
        return Device(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}; it needs name, kind, memory, bandwidth and [peaks]") from error
