"""nvidia-smi: parsing, absence, failure, time limit."""

import time

import pytest

from slipstream.hardware import Gpu, gpu

MIB = 1 << 20


def test_parse():
    text = "NVIDIA H200, 143771, 143167, 9.0, 570.86.15\nTesla T4, [N/A], [N/A], [N/A], 470.1\nNo devices were found\n\n"
    assert gpu.parse(text) == (
        Gpu("NVIDIA H200", 143771 * MIB, 143167 * MIB, (9, 0), "570.86.15"),
        Gpu("Tesla T4", None, None, None, "470.1"),
    )


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """A stand-in for nvidia-smi with the given script."""

    def make(script: str) -> str:
        path = tmp_path / "fake-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return path.name

    return make


def test_no_driver_is_no_gpu():
    assert gpu.read("no-such-tool-here") == ()


def test_a_tool_that_answers(tool):
    assert gpu.read(tool("echo 'NVIDIA A10, 23028, 22000, 8.6, 550.1'")) == (Gpu("NVIDIA A10", 23028 * MIB, 22000 * MIB, (8, 6), "550.1"),)


def test_a_tool_that_fails_leaves_it_unknown(tool):
    assert gpu.read(tool("echo broken; exit 9")) is None


def test_a_tool_that_hangs_is_given_up(tool, monkeypatch):
    monkeypatch.setattr(gpu, "SECONDS", 0.2)
    begin = time.monotonic()
    assert gpu.read(tool("exec sleep 30")) is None
    assert time.monotonic() - begin < 10
