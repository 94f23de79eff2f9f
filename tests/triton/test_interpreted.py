"""The kernels, proved right without a GPU: each cases_*.py runs under Triton's interpreter, in a process of its own.

The interpreter must be chosen before triton is imported, for the whole process; other tests may have imported it already, and
compilation needs it off.
"""

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.tools.package import environment

HERE = Path(__file__).resolve().parent
CASES = sorted(path.name for path in HERE.glob("cases_*.py"))


def test_there_are_cases():
    assert CASES


@pytest.fixture(scope="module")
def runs(request):
    """Every chosen file's run, two at a time: they are what the whole suite waits for longest."""
    asking = [item for item in request.session.items if item.path == request.path and "cases" in item.fixturenames]
    chosen = sorted({item.callspec.params["cases"] for item in asking})
    with ThreadPoolExecutor(2) as pool:
        yield {cases: pool.submit(run, cases) for cases in chosen}


def run(cases: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", str(HERE / cases)]
    interpreted = environment(HERE, HERE.parent / "ops", TRITON_INTERPRET="1")
    return subprocess.run(command, capture_output=True, text=True, env=interpreted, timeout=280)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("cases", CASES)
def test_in_the_interpreter(runs, cases):
    done = runs[cases].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
