"""Staging: numbers that the host writes again and again and the device reads; `send`: such as it writes once; Fetch: numbers that the
device made, for the host. Owns the way between the two memories, on which nobody waits before he must.

On the CPU both are the same memory. On an accelerator the host side is pinned and `upload` copies it, in the order of the device's work, to
a buffer whose address never changes. `host` waits until the last upload has been done: what is written next must not reach the device
in place of what was meant.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Staging:
    """An array on the host with its twin on the device.

    Args:
        shape, dtype: of both; dtype is a numpy type that torch has too.
        device: where the twin lies.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type, device: str):
        same = torch.device(device).type == "cpu"
        pinned = torch.from_numpy(np.zeros(shape, dtype))
        self._pinned = pinned if same else pinned.pin_memory()
        self._host: np.ndarray = self._pinned.numpy()
        self.device: Tensor = self._pinned if same else torch.zeros_like(self._pinned, device=device)
        self._done = None if same else torch.cuda.Event()  # of the last upload
        self._waits = False

    @property
    def host(self) -> np.ndarray:
        """The array, to be written. Asked for anew after every upload."""
        if self._waits:
            self._done.synchronize()
            self._waits = False
        return self._host

    @property
    def written(self) -> np.ndarray:
        """The array as it was written last, to be read: that waits for nothing."""
        return self._host

    def upload(self) -> Tensor:
        """Makes the device's twin equal; returns it."""
        if self._done is not None:
            self.device.copy_(self._pinned, non_blocking=True)
            self._done.record()
            self._waits = True
        return self.device


def send(numbers: Sequence, device: str | torch.device) -> Tensor:
    """Whole numbers as an int32 tensor on the device, in the order of its work."""
    if torch.device(device).type == "cpu":
        return torch.tensor(numbers, dtype=torch.int32)
    return torch.tensor(numbers, dtype=torch.int32, pin_memory=True).to(device, non_blocking=True)


class Fetch:
    """Numbers on their way to the host, in the order of the device's work.

    Args:
        tensor: the numbers; nobody writes to them any more.
    """

    def __init__(self, tensor: Tensor):
        self._host = tensor.to("cpu", non_blocking=True)  # pinned
        self._done = torch.cuda.Event() if tensor.is_cuda else None
        if self._done is not None:
            self._done.record()

    def list(self) -> list:
        """The numbers, as soon as they are there."""
        if self._done is not None:
            self._done.synchronize()
        return self._host.tolist()
