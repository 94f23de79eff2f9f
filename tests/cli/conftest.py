"""What the tests of commands share: probes that cost nothing, and a model on disk."""

import pytest

from slipstream.ops import probe
from tests.engine.conftest import folder  # noqa: F401  a tiny checkpoint with a tokenizer


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch):
    monkeypatch.setattr(probe, "read_bandwidth", lambda size, threads, seconds=0.2, device="cpu": 100.0)
    monkeypatch.setattr(probe, "peak", lambda kind, threads, seconds=0.1, device="cpu": 1000.0)
