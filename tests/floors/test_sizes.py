"""Nothing grows past what can be read in one sitting. A file that must is split, not exempted."""

import ast

from tests.floors.source import sources

FILE, KERNEL_FILE, FUNCTION, CLASS, CORE = 400, 700, 60, 250, 150


def spans(kinds) -> list[tuple[str, int]]:
    """(place, lines) of every definition of the given kinds."""
    return [
        (f"{source.path}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1)
        for source in sources()
        for node in ast.walk(source.tree)
        if isinstance(node, kinds)
    ]


def test_files():
    assert not [f"{s.path}: {s.lines} lines" for s in sources() if s.lines > (KERNEL_FILE if s.path.startswith("ops/") else FILE)]


def test_functions():
    assert not [f"{place}: {lines} lines" for place, lines in spans((ast.FunctionDef, ast.AsyncFunctionDef)) if lines > FUNCTION]


def test_classes():
    assert not [f"{place}: {lines} lines" for place, lines in spans(ast.ClassDef) if lines > CLASS]


def test_the_core_loop_stays_readable():
    assert [s.lines for s in sources() if s.path == "engine/core.py"][0] <= CORE


def test_every_file_says_what_it_owns():
    assert not [s.path for s in sources() if not ast.get_docstring(s.tree)]
