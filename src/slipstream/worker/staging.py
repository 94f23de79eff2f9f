"""Staging: numbers that the host writes and the device reads in every step. Owns the way between the two memories.

On the CPU both are the same memory. On an accelerator the host side is pinned and `upload` copies it to a device buffer
whose address never changes. A step ends with the host reading its tokens, so what is staged is not overwritten while it
is still being copied.
"""

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
        self.host: np.ndarray = self._pinned.numpy()
        self.device: Tensor = self._pinned if same else torch.zeros_like(self._pinned, device=device)

    def upload(self) -> Tensor:
        """Makes the device's twin equal; returns it."""
        if self.device is not self._pinned:
            self.device.copy_(self._pinned, non_blocking=True)
        return self.device
