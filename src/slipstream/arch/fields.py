"""Reading one field of a config.json: typed, bounded, and with an error that names field, value and way out.

Must not know any family.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from slipstream.base.errors import CheckpointError

MISSING = object()


class Fields:
    """A JSON object whose fields are asked for by name; what nobody asked for can be listed afterwards.

    Args:
        values: the object.
        where: how messages call it, for instance "config.json".
    """

    def __init__(self, values: Mapping[str, Any], where: str):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"{where}={values!r}: must be a JSON object")
        self.values, self.where, self._asked = values, where, set()

    def get(self, name: str, default: Any = MISSING) -> Any:
        """The raw value; null and absent mean the default."""
        self._asked.add(name)
        value = self.values.get(name)
        if value is not None:
            return value
        if default is MISSING:
            raise CheckpointError(f"{self.where}: field {name!r} is missing; take the config.json that belongs to these weights")
        return default

    def whole(self, name: str, default: Any = MISSING) -> int:
        """A whole number of at least 1."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise self.error(name, value, "must be a whole number between 1 and 2**31 - 1")
        return value

    def number(self, name: str, default: Any = MISSING) -> float:
        """A finite number above 0."""
        value = self.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise self.error(name, value, "must be a finite number above 0")
        return float(value)

    def flag(self, name: str, default: Any = MISSING) -> bool:
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise self.error(name, value, "must be true or false")
        return value

    def only(self, name: str, supported: Iterable[Any], default: Any) -> Any:
        """A value out of `supported`; everything else is refused by name."""
        value, supported = self.get(name, default), list(supported)
        if value not in supported:
            known = ", ".join(repr(item) for item in supported)
            raise self.error(name, value, f"is not supported; supported: {known}. Use a model without it")
        return value

    def absent(self, name: str, way_out: str) -> None:
        """Refuses a field that would change the model in a way this family does not compute."""
        value = self.get(name, None)
        if value not in (None, {}, [], False):
            raise self.error(name, value, f"is not supported; {way_out}")

    def unknown(self, harmless: Iterable[str]) -> list[str]:
        """Names that nobody asked for and that are not on the list of harmless ones."""
        known = self._asked | set(harmless)
        return sorted(name for name, value in self.values.items() if name not in known and value is not None)

    def error(self, name: str, value: Any, what: str) -> CheckpointError:
        shown = repr(value)
        return CheckpointError(f"{self.where}: {name}={shown if len(shown) <= 120 else shown[:117] + '...'}: {what}")
