"""What the tests of this folder read: the package's own source, parsed once."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "src" / "slipstream"


class Source(NamedTuple):
    """One file: its path below the package, dotted module name, number of lines, syntax tree."""

    path: str
    module: str
    lines: int
    tree: ast.Module


@cache
def sources() -> tuple[Source, ...]:
    """All files of the package."""
    out = []
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        out.append(Source(path.relative_to(PACKAGE).as_posix(), module, text.count("\n") + 1, ast.parse(text)))
    return tuple(out)


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in a file, wherever it stands: in functions and under TYPE_CHECKING too.

    `from a.b import c` gives "a.b.c", which may be a module or a name in one; both begin with the package that counts.
    """
    package = source.module if source.path.endswith("__init__.py") else source.module.rpartition(".")[0]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("slipstream."):
            yield node.lineno, node.value  # a module named for import_module or the registry is an import too
