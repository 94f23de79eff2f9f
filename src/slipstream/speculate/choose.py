"""From the option `speculate` to a drafter: "ngram", "ngram:longest=5,nodes=6", or an object. Owns the syntax and its errors; the
options themselves belong to each drafter's file.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.speculate.drafter import Around, Drafter

DRAFTERS = "slipstream.speculate.drafters"
_WORDS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Choice:
    """A drafter's file and its options, both checked."""

    module: ModuleType
    options: Any

    @property
    def max_draft(self) -> int:
        """Nodes of its largest draft."""
        return self.options.nodes

    def beside(self, source: Path | str) -> Path | str | None:
        """The model that it wants to run beside the one of `source`, if any."""
        return self.module.beside(self.options, source) if hasattr(self.module, "beside") else None

    def heads(self, source: Path | str) -> tuple[str, Path | str] | None:
        """(kind, folder) of the head on the hidden states of `source` that it guesses with, if any."""
        return self.module.heads(self.options, source) if hasattr(self.module, "heads") else None

    def make(self, around: Around) -> Drafter:
        return self.module.make(self.options, around)


def choose(text: str) -> Choice:
    """Reads NAME or NAME:KEY=VALUE,KEY=VALUE.

    Raises:
        InputError: there is no such drafter or option, or the value does not fit; says which there are.
    """
    name, _, rest = text.partition(":")
    module = registry.load(DRAFTERS, name, "speculate")
    known = {field.name: field.type for field in fields(module.Options)}
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise InputError(f"speculate={text!r}: {part!r} is not KEY=VALUE; options of {name}: {_listed(known)}")
        if key not in known:
            raise registry.unknown(f"speculate={text!r}: option of {name}", key, known)
        given[key] = _value(text, key, value, known[key])
    return Choice(module, module.Options(**given))


def _value(text: str, key: str, value: str, kind: type) -> Any:
    """The value as the option's type wants it: bool, int, float or str."""
    try:
        return _WORDS[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise InputError(f"speculate={text!r}: {key}={value!r} must be {'true or false' if kind is bool else kind.__name__}") from None


def _listed(known: dict[str, type]) -> str:
    return ", ".join(known) or "none"


def at_least(least: int, /, **options: int) -> None:
    """InputError if an option is below `least`."""
    for name, value in options.items():
        if value < least:
            raise InputError(f"speculate: {name}={value} must be at least {least}")
