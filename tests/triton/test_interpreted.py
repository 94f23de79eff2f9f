"""The kernels, proved right without a GPU: each cases_*.py runs under Triton's interpreter, in a process of its own.

The interpreter must be chosen before triton is imported, for the whole process; other tests may have imported it already, and
compilation needs it off.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CASES = sorted(path.name for path in HERE.glob("cases_*.py"))


def test_there_are_cases():
    assert CASES


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("cases", CASES)
def test_in_the_interpreter(cases):
    paths = [str(HERE), str(HERE.parent / "ops"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", str(HERE / cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
