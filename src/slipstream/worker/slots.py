"""Slots: what the worker remembers of each running request between steps.

Owns the slot numbers, the page tables as one tensor, and each request's history and sampling state. A slot lives from a
request's Admission to its release; after a preemption the request gets a fresh one.
"""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from slipstream.ops.staging import Staging
from slipstream.sampling.sampler import Voice
from slipstream.step import Admission, Chunk


@dataclass(slots=True)
class Slot:
    """One running request.

    Attributes:
        index: its row in the page table tensor.
        tokens: prompt and output so far; grows as tokens are kept.
        prompt: how many of them are prompt.
        voice: how it samples.
        pages: how many entries of its page table are filled in.
        prediction: tokens that its output may be.
    """

    index: int
    tokens: list[int]
    prompt: int
    voice: Voice
    pages: int = 0
    prediction: tuple[int, ...] = ()


class Slots:
    """Up to `count` slots with page tables of up to `max_pages` pages."""

    def __init__(self, count: int, max_pages: int, vocab: int, device: str):
        self.staged = Staging((count, max_pages), np.int32, device)  # the page tables
        self._changed = True
        self.vocab, self.device = vocab, device
        self._free = list(range(count))[::-1]
        self._of: dict[int, Slot] = {}

    def admit(self, admission: Admission) -> None:
        voice = Voice.of(admission, self.vocab, self.device)
        slot = Slot(self._free.pop(), list(admission.tokens), admission.prompt, voice, prediction=admission.prediction)
        self._of[admission.request] = slot

    def release(self, request: int) -> None:
        slot = self._of.pop(request, None)  # a request that ended before it ever ran has no slot
        if slot is not None:
            self._free.append(slot.index)

    def requests(self) -> list[int]:
        return list(self._of)

    def __contains__(self, request: int) -> bool:
        return request in self._of

    def __getitem__(self, request: int) -> Slot:
        return self._of[request]

    def extend_table(self, slot: Slot, chunk: Chunk) -> None:
        """Fills in the pages that are new since the request's last step; a running request's pages only grow."""
        if len(chunk.pages) > slot.pages:
            self.table[slot.index, slot.pages : len(chunk.pages)] = chunk.pages[slot.pages :]
            slot.pages = len(chunk.pages)
            self._changed = True

    def upload(self) -> None:
        """Brings the page tables to the device, if they have changed."""
        if self._changed:
            self.staged.upload()
            self._changed = False

    @property
    def table(self) -> np.ndarray:
        """The page tables as the host knows them. [slots, max_pages]"""
        return self.staged.host

    @property
    def page_table(self) -> Tensor:
        """The page tables on the device, as of the last upload. [slots, max_pages]"""
        return self.staged.device
