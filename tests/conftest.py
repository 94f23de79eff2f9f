"""What all tests share: where the data lies, hypothesis settings, thread counts, the device of all engines (`--device cuda`)."""

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


OF_A_CPU = {"kernels": ("cpu", "reference"), "kv": ("int8",), "activations": ("128", "row")}  # options that a GPU does not take


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="of engines that a test makes without saying where; with deterministic settings")


@pytest.fixture(autouse=True, scope="session")
def device(request: pytest.FixtureRequest) -> None:
    """Engines of this process run on --device; a test that asks for what only a CPU has is skipped there."""
    device = request.config.getoption("--device")
    if device == "cpu":
        return
    from slipstream.base.config import Options

    made = Options.of

    def of(model, options: dict) -> Options:
        for name, values in OF_A_CPU.items():
            if "device" not in options and options.get(name) in values:
                pytest.skip(f"{name}={options[name]!r} is of a CPU")
        return made(model, {"device": device, "deterministic": True} | options)

    Options.of = staticmethod(of)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared test data (SLIPSTREAM_SHARED, or `shared` beside the repository); skips where there is none."""
    folder = Path(os.environ.get("SLIPSTREAM_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder}; set SLIPSTREAM_SHARED")
    return folder
