"""A machine whose speed is known, so that shares can be computed by hand."""

import pytest

from slipstream.ops import probe
from tests.engine.conftest import folder  # noqa: F401  a tiny checkpoint with a tokenizer


@pytest.fixture
def known_machine(monkeypatch):
    """Reads 10 GB/s and does 100 Gop/s of every kind; returns the calls that were made."""
    calls = []

    def read_bandwidth(size, threads, seconds=0.2, device="cpu"):
        calls.append(("read", size, threads))
        return 10.0

    def peak(kind, threads, seconds=0.1, device="cpu"):
        calls.append(("peak", kind, threads))
        return 100.0

    monkeypatch.setattr(probe, "read_bandwidth", read_bandwidth)
    monkeypatch.setattr(probe, "peak", peak)
    return calls
