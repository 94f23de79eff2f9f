"""The pool's memory: what short requests make the system hand out."""

import re
from pathlib import Path

import pytest

from slipstream.ops.dispatch import Kernels
from slipstream.worker.pool import KVPool

STATUS = Path("/proc/self/status")
MIB = 1024  # in the unit of that file


def resident() -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", STATUS.read_text())[1])


@pytest.mark.skipif(not STATUS.is_file(), reason="needs Linux, which says what a process holds")
def test_the_first_tokens_of_a_pool_take_little_memory():
    """A large page for the keys and one for the values of every layer would take 64 MiB, and as long as a prompt to clear."""
    pool = KVPool((16, 2, 1024, 8, 16, 64), "bf16", Kernels("cpu"))  # 16 MiB for the keys of a layer
    before = resident()
    pool.tensor[:, :, 0] = 1
    assert resident() - before < 4 * MIB
    assert (pool.tensor[:, :, 0] == 1).all() and not pool.tensor[:, :, 1].any()


def test_a_model_without_attention_has_an_empty_pool():
    assert KVPool((0, 2, 8, 2, 16, 64), "bf16", Kernels("cpu")).tensor.numel() == 0
