"""Processors edit one row of raw logits before the draw. One file each, found by name; `STAGE` orders them.

A module provides `STAGE: int` and `make(admission, vocab, device) -> Processor | None` (None: this request does not need it).
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Processor(Protocol):
    """State of one processor for one request."""

    def append(self, token: int) -> None:
        """The request's text grew by `token`."""

    def apply(self, row: Tensor, path: Sequence[int]) -> None:
        """Edits `row` [vocab] in place for the token after the request's tokens followed by the drafted `path`."""


class Stateless:
    """Base of processors that do not look at the history."""

    def append(self, token: int) -> None:
        return None
