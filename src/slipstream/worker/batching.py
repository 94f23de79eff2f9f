"""From a Plan to the tensors of a step. Owns the staging buffers and the addressing of rows; runs no op.

Row order: chunk after chunk, trunk rows then branch rows. The KV of row number i of a chunk is written at position index
start + i of its page table; for branch rows that is a scratch place behind the trunk, while their rotary position is
that of their depth:

    page table   0 ... start-1 | start ... start+u-1 | start+u+node ...
                 cached        | trunk               | branch (kept nodes are moved forward after verification)

Where steps are filled up to a few sizes (Kernels.pads), rows that nobody asked for follow: they stand at position 0 of the first slot and
write to a page of the pool that is nobody's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from slipstream.model.batch import Batch
from slipstream.ops.staging import Staging
from slipstream.ops.types import AttentionRows, Company, Few
from slipstream.step import Chunk
from slipstream.worker.company import Alone, Companies
from slipstream.worker.drawn import Drawn
from slipstream.worker.slots import Slot, Slots

MAX_DRAFT = 64  # nodes of one draft; with their ancestors they bound the tail slots of a step


@dataclass(frozen=True, slots=True)
class Padding:
    """How steps are filled up.

    Attributes:
        rows: rows of a step -> rows that it is run with.
        slot: where the rows that were added write.
        shares: most rows of a step in which keys that requests share are read once (Kernels.shares).
        mixes: least rows of a step in which those of requests that have few are wanted apart (Kernels.mixes); 0: in none.
    """

    rows: Callable[[int], int]
    slot: int
    shares: int = 0
    mixes: int = 0


class Batcher:
    """Builds the Batch of a step in buffers allocated once for `max_rows` rows; padding: None runs steps as they are."""

    def __init__(self, slots: Slots, page_size: int, max_rows: int, device: str, padding: Padding | None = None):
        self.slots, self.page_size, self._padding, self._max_rows = slots, page_size, padding, max_rows
        self.rows = Staging((5, max_rows), np.int32, device)  # ids, positions, slots, request, linear
        self.tail_start = Staging((max_rows + 1,), np.int32, device)
        self.tail_slots = Staging((max_rows * MAX_DRAFT,), np.int32, device)
        self._companies = Companies(max_rows, page_size, device)
        self._alone = Alone(max_rows, len(slots.table), device)
        self._made: dict[tuple[int, int, bool], Batch] = {}

    def build(self, chunks: Sequence[Chunk], drawn: Drawn | None = None) -> Batch:
        """The batch of these chunks; tokens that the host does not know are among those `drawn` in the step before."""
        slots = [self.slots[chunk.request] for chunk in chunks]
        for slot, chunk in zip(slots, chunks, strict=True):
            self.slots.extend_table(slot, chunk)
        counts = [chunk.rows for chunk in chunks]
        total = sum(counts)
        first = [0, *accumulate(counts)]  # index of each chunk's first row, and the end
        ids, positions, cells, request, linear = self.rows.host[:, :total]
        trunks = [chunk.trunk for chunk in chunks] if drawn is None else drawn.trunks(chunks)
        ids[:] = [token for trunk, chunk in zip(trunks, chunks, strict=True) for part in (trunk, chunk.draft.tokens) for token in part]
        of = np.array([slot.index for slot in slots], np.int32)  # [chunks]
        index = np.array([chunk.start for chunk in chunks])  # [chunks], and then the place in the page table, [rows]
        if total > len(chunks):
            of = np.repeat(of, counts)
            index = np.repeat(index - first[:-1], counts) + np.arange(total)
        request[:], positions[:], linear[:] = of, index, index + 1
        page, place = np.divmod(index, self.page_size)
        cells[:] = self.slots.table[of, page] * self.page_size + place
        tails = self._branches(chunks, first, total)
        company = few = None
        if self._padding is not None:
            total, tails = self._pad(total, tails)
            if total >= self._padding.mixes > 0:
                few = self._alone.find(counts, total)
            if total <= self._padding.shares:
                starts = [chunk.start for chunk in chunks]
                company = self._companies.find(self.slots.table, [slot.index for slot in slots], starts, counts, total)
        self.rows.upload()
        self.tail_start.upload()
        self.slots.upload()
        if tails:
            self.tail_slots.upload()
        batch = self._views(total, max(tails, 1), company, few)  # never empty: it has an address
        if drawn is not None:
            drawn.fill(batch.ids)
        return batch

    def _pad(self, total: int, tails: int) -> tuple[int, int]:
        """Fills the step up; its rows and tail slots then. Tail slots are all that such a step may have, or none."""
        size = min(self._padding.rows(total), self._max_rows)
        self.rows.host[:, total:size] = [[0], [0], [self._padding.slot], [0], [1]]
        self.tail_start.host[total + 1 : size + 1] = tails
        return size, size * MAX_DRAFT if tails else 0

    def _views(self, total: int, tails: int, company: Company | None, few: Few | None) -> Batch:
        """The tensors of a step; where another may have the same they are made once, since their addresses never change."""
        again = tails == 1 or self._padding is not None
        batch = self._made.get((total, tails, company is not None)) if again else None
        if batch is None:
            ids, positions, cells, request, linear = self.rows.device[:, :total]
            start, slots = self.tail_start.device[: total + 1], self.tail_slots.device[:tails]
            attention = AttentionRows(request, positions, linear, start, slots, self.slots.page_table, company, few)
            batch = Batch(ids, positions, cells, attention)
            if again:
                self._made[total, tails, company is not None] = batch
        return batch

    def _branches(self, chunks: Sequence[Chunk], first: Sequence[int], total: int) -> int:
        """Corrects the rows of draft nodes: position by depth, keys past the trunk along the path. Returns how many tail
        slots there are."""
        _, positions, cells, _, linear = self.rows.host[:, :total]
        start, slots, count = self.tail_start.host, self.tail_slots.host, 0
        start[: total + 1] = 0
        for chunk, begin in zip(chunks, first, strict=False):
            if not chunk.draft.tokens:
                continue
            branch = begin + len(chunk.trunk)  # row of node 0
            end = chunk.start + len(chunk.trunk)  # positions before it are linear for every node
            for node, depth in enumerate(chunk.draft.depths()):
                row = branch + node
                positions[row], linear[row] = end + depth - 1, end
                slots[count : count + depth] = cells[[branch + ancestor for ancestor in chunk.draft.path(node)]]
                count += depth
                start[row + 1] = depth
        if count:
            np.cumsum(start[: total + 1], out=start[: total + 1])
        return count

    def moves(self, chunk: Chunk, slot: Slot, kept: Sequence[int]) -> list[tuple[int, int]]:
        """Slot moves that make the kept nodes of a draft contiguous behind the trunk. Ascending, so that no source is
        overwritten before it was read (node kept[j] lies at or behind place j)."""
        base = chunk.start + len(chunk.trunk)
        return [(self._cell(slot, base + node), self._cell(slot, base + place)) for place, node in enumerate(kept) if node != place]

    def _cell(self, slot: Slot, index: int) -> int:
        return int(self.slots.table[slot.index, index // self.page_size]) * self.page_size + index % self.page_size
