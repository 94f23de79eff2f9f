"""Which rows go to which expert, for candidates that run experts one after the other from Python."""

from collections.abc import Iterator

import torch
from torch import Tensor


def by_expert(experts: Tensor, shares: Tensor, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(number, int32 rows [n] that go to it in ascending order, their shares [n]) of each of `count` experts that some row goes to.

    Args:
        experts, shares: what `route` wrote. [rows, chosen]
    """
    numbers, start = experts.flatten(), 0
    order = numbers.argsort(stable=True)  # by expert, then by row
    rows, shares = (order // experts.shape[1]).int(), shares.flatten()[order]
    for number, n in enumerate(torch.bincount(numbers, minlength=count).tolist()):
        if n:
            yield number, rows[start : start + n], shares[start : start + n]
            start += n
