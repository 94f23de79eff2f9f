"""What the candidate answers where it cannot serve, and that asking costs no import of triton."""

import importlib.util
import subprocess
import sys

import pytest

from slipstream.ops import triton as candidate
from slipstream.ops.types import LINEAR_OPS, OPS, Declined


@pytest.mark.parametrize("op", [*OPS, *LINEAR_OPS])
def test_it_declines_on_other_devices(op):
    answer = candidate.offer(op, "cpu")
    assert isinstance(answer, Declined) and "cuda" in answer.reason and "cpu" in answer.reason


def test_it_declines_where_triton_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert candidate.offer("norm", "cuda:0") == Declined("triton is not installed")


def test_asking_on_a_cpu_imports_no_triton():
    program = (
        "import sys; sys.modules['triton'] = None\n"
        "from slipstream.ops import triton as candidate\n"
        "assert candidate.PROFILE == f'{candidate.NAME}.{candidate.VERSION}' == 'triton.4'\n"
        "candidate.offer('norm', 'cpu')\n"
        "assert not [name for name in sys.modules if name.startswith('slipstream.ops.triton.')]"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_it_offers_every_op_on_cuda():
    program = (
        "from slipstream.ops import triton as candidate\n"
        "from slipstream.ops.types import LINEAR_FORMATS, OPS, Declined\n"
        "assert all(callable(candidate.offer(op, 'cuda:0')) for op in OPS)\n"
        "assert all(candidate.offer(f'linear_{name}', 'cuda').name == f'triton_{name}' for name in LINEAR_FORMATS)\n"
        "assert all(isinstance(candidate.offer(op, 'cuda'), Declined) for op in ('linear_unheard_of', 'unheard_of'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
