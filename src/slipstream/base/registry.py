"""Finds modules of a package by file name: one new file in the folder is one new format, family, policy or drafter.

Owns the lookup and the words of the error when a name is unknown. Must not know any package that uses it.
"""

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from types import ModuleType

from slipstream.base.errors import InputError


def names(package: str) -> list[str]:
    """Names of the modules in `package` (dotted name), sorted; none of them is imported. Names that begin with `_` are private."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{package} is not a package")
    found = pkgutil.iter_modules(spec.submodule_search_locations)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def load(package: str, name: str, what: str | None = None) -> ModuleType:
    """Imports module `name` of `package`.

    Args:
        package: dotted name, as "slipstream.quant.formats".
        what: how the error calls such a thing ("quant format"); the package's last word if not given.

    Raises:
        InputError: there is no such module; names the nearest one and lists all.
    """
    whole = f"{package}.{name}"
    there = whole in sys.modules or (name.isidentifier() and importlib.util.find_spec(whole) is not None)
    if not there or name.startswith("_"):
        raise unknown(what or package.rpartition(".")[2], name, names(package))  # only here is the folder read
    return importlib.import_module(whole)


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error for `name`, which is none of the `known` ones: says which comes nearest and which there are."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"{what}={name!r}: unknown; {hint}known: {', '.join(known) if known else 'none'}")
