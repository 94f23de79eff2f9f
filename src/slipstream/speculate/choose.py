"""From the options `speculate` and `verify` to a drafter and a rule: "ngram", "ngram:longest=5,nodes=6". Owns the syntax and its
errors; the options themselves belong to the file of each.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from slipstream.base import registry
from slipstream.base.errors import InputError
from slipstream.speculate.drafter import Around, Drafter
from slipstream.speculate.weighing import Dice, Weighed

DRAFTERS, RULES = "slipstream.speculate.drafters", "slipstream.speculate.verify"
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

    def exits(self, layers: int) -> tuple[int, ...]:
        """After how many of the `layers` of the model that is drafted for it may leave it, if it guesses with these; else none."""
        return self.module.exits(self.options, layers) if hasattr(self.module, "exits") else ()

    @property
    def asks(self) -> int:
        """Tokens of one request that its model or head draws in one call, where that is more than it guesses from one place."""
        return self.module.asks(self.options) if hasattr(self.module, "asks") else 1

    def make(self, around: Around) -> Drafter:
        return self.module.make(self.options, around)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of verification and its options, both checked."""

    name: str
    module: ModuleType
    options: Any

    @property
    def weighs(self) -> bool:
        """Whether it weighs drafts by distributions; `match` does not."""
        return hasattr(self.module, "walk")

    @property
    def exact(self) -> bool:
        """Whether the text is distributed as without drafts."""
        return self.module.EXACT

    def walk(self, weighed: Weighed, dice: Dice) -> tuple[list[int], list[int]]:
        """The kept nodes of a draft, and their tokens followed by one more."""
        return self.module.walk(self.options, weighed, dice)


def choose(text: str) -> Choice:
    """Reads NAME, NAME:KEY=VALUE,KEY=VALUE or, where it has such an option, NAME:PATH,KEY=VALUE.

    Raises:
        InputError: there is no such drafter or option, or the value does not fit; says which there are.
    """
    return Choice(*_read(DRAFTERS, "speculate", text)[1:])


def choose_rule(text: str) -> Rule:
    """The same for a rule of verification."""
    return Rule(*_read(RULES, "verify", text))


def _read(package: str, option: str, text: str) -> tuple[str, ModuleType, Any]:
    """(name, file, options)."""
    name, _, rest = text.partition(":")
    module = registry.load(package, name, option)
    known = {field.name: field.type for field in fields(module.Options)}
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals and "path" in known and not given:
            key, equals, value = "path", "=", part
        if not equals:
            raise InputError(f"{option}={text!r}: {part!r} is not KEY=VALUE; options of {name}: {_listed(known)}")
        if key not in known:
            raise registry.unknown(f"{option}={text!r}: option of {name}", key, known)
        given[key] = _value(option, text, key, value, known[key])
    return name, module, module.Options(**given)


def _value(option: str, text: str, key: str, value: str, kind: type) -> Any:
    """The value as the option's type wants it: bool, int, float or str."""
    try:
        return _WORDS[value] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise InputError(f"{option}={text!r}: {key}={value!r} must be {'true or false' if kind is bool else kind.__name__}") from None


def _listed(known: dict[str, type]) -> str:
    return ", ".join(known) or "none"


def at_least(least: int, /, **options: int) -> None:
    """InputError if an option is below `least`."""
    for name, value in options.items():
        if value < least:
            raise InputError(f"speculate: {name}={value} must be at least {least}")
