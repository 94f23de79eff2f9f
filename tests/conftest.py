"""What all tests share: where the data lies, hypothesis settings, thread counts."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported: one thread unless a test asks for more, and no spinning, which starves a shared machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["SLIPSTREAM_PACKED"] = "off"  # nothing is left behind

settings.register_profile("slipstream", deadline=None, derandomize=True)  # the same examples on every machine
settings.load_profile("slipstream")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data (SLIPSTREAM_SHARED, or `shared` beside the repository); skips where there is none."""
    folder = Path(os.environ.get("SLIPSTREAM_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder}; set SLIPSTREAM_SHARED")
    return folder
