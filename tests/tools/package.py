"""Where subprocesses of tests find the package that the tests import, installed or not: never another copy without its kernels."""

import os
from pathlib import Path

import slipstream

FOLDER = Path(slipstream.__file__).resolve().parents[1]


def environment(*first: Path, **more: str) -> dict[str, str]:
    """This process's environment with `first` and the package's folder before what PYTHONPATH holds, and `more`."""
    paths = [*map(str, first), str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}
