"""A package imports only packages on lower floors, and the lower half of the house stands without torch."""

import ast
import subprocess
import sys

import pytest

from tests.floors.source import PACKAGE, Source, imports, sources

FLOORS = {
    0: "base files",
    1: "step text hardware arch",
    2: "cost cache ops parallel",
    3: "scheduler quant structured",
    4: "weights sampling",
    5: "model",
    6: "speculate",
    7: "worker",
    8: "engine compress",
    9: "train simulate server",
    10: "bench",
    11: "cli",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
TORCH_FREE = {"base", "files", "step", "text", "hardware", "arch", "cost", "cache", "scheduler", "structured"}
BESIDE = {("files", "base")}  # the ground floor's one neighbour: file readers raise the errors of base
HAVE = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file())
WITHOUT_CODE = {"builtin"}  # data of the built-in model


def test_every_package_has_a_floor():
    assert set(HAVE) - WITHOUT_CODE <= set(FLOOR_OF)


def test_every_folder_with_code_is_a_package():
    folders = {source.path.split("/")[0] for source in sources() if "/" in source.path}
    assert folders - WITHOUT_CODE <= set(HAVE)


def test_imports_go_down():
    wrong = []
    for source in sources():
        if "/" not in source.path:
            continue  # slipstream/__init__.py: the public names, from wherever they live
        own = source.path.split("/")[0]
        for line, name in imports(source):
            parts = name.split(".")
            if parts[0] != "slipstream" or len(parts) < 2 or parts[1] == own or parts[1] not in FLOOR_OF:
                continue
            if (own, parts[1]) in BESIDE:
                continue
            if FLOOR_OF[parts[1]] >= FLOOR_OF[own]:
                wrong.append(f"{source.path}:{line}: {own} (floor {FLOOR_OF[own]}) imports {name} (floor {FLOOR_OF[parts[1]]})")
    assert not wrong, "\n".join(wrong)


def test_torch_free_packages_do_not_name_torch():
    wrong = [
        f"{source.path}:{line}: {name}"
        for source in sources()
        for line, name in imports(source)
        if source.path.split("/")[0] in TORCH_FREE and name.split(".")[0] == "torch"
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_free_packages_import_where_torch_is_not_installed():
    modules = [source.module for source in sources() if source.path.split("/")[0] in TORCH_FREE]
    program = "import sys, importlib\nsys.modules['torch'] = None\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


WRITTEN = (
    "from slipstream.engine import llm",
    "if TYPE_CHECKING:\n    import slipstream.cli.main",
    "def f():\n    from ..server import app",
    "MODULES = 'slipstream.worker.executors'",
)


@pytest.mark.parametrize("written", WRITTEN)
def test_the_check_sees_every_way_to_import(written):
    """The checker itself: module-level, TYPE_CHECKING, lazy and relative imports count, and modules named as text."""
    found = [name for _, name in imports(Source("cache/x.py", "slipstream.cache.x", 1, ast.parse(written)))]
    assert any(FLOOR_OF[name.split(".")[1]] > FLOOR_OF["cache"] for name in found), found
