"""The kernels under test, and their threads."""

import pytest
import torch

from slipstream.base import native
from slipstream.ops import Kernels


@pytest.fixture(params=["reference", "cpu"])
def kernels(request) -> Kernels:
    """Every test that takes this runs against each candidate."""
    if request.param == "cpu" and native.module is None:
        pytest.skip(f"no native module: {native.reason}")
    return Kernels(only=request.param)


@pytest.fixture
def threads():
    """Sets the number of threads of torch and of the native module; puts both back afterwards."""

    def set_both(count: int) -> None:
        torch.set_num_threads(count)
        if native.module is not None:
            native.module.set_threads(count)

    before = torch.get_num_threads(), native.module.threads() if native.module is not None else None
    yield set_both
    torch.set_num_threads(before[0])
    if native.module is not None:
        native.module.set_threads(before[1])
