"""A worker's part for tests: keeps requests in a shuffled paged pool and turns their rows into a Batch."""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from slipstream.model import Batch, Decoder
from slipstream.ops.types import AttentionRows
from slipstream.step import DraftTree
from slipstream.step.draft import EMPTY


@dataclass
class Rows:
    """What a request does in one step: known tokens, then a draft tree below the last of them."""

    request: int
    tokens: list[int]
    draft: DraftTree = field(default=EMPTY)


class Paged:
    """Requests that share a pool; a decoder made with max_rows and max_logit_rows of at least the rows of any step."""

    def __init__(self, decoder: Decoder, *, pages: int = 64, page_size: int = 4, dtype: torch.dtype = torch.float32, seed: int = 0):
        self.decoder, self.page_size = decoder, page_size
        self.pool = torch.full(decoder.pool_shape(pages, page_size), float("nan"), dtype=dtype)  # what nobody wrote nobody may read
        self.free = list(range(pages))
        random.Random(seed).shuffle(self.free)
        self.pages: dict[int, list[int]] = {}
        self.cached: dict[int, int] = {}

    def step(self, *work: Rows) -> list[Tensor]:
        """Logits of every row, per request [rows, vocab]; drafts are not kept."""
        batch, counts = self.batch(work)
        hidden = self.decoder.forward(batch, self.pool)
        logits = self.decoder.logits(hidden, torch.arange(sum(counts), dtype=torch.int32)).clone()
        for item in work:
            self.cached[item.request] += len(item.tokens)
        return list(logits.split(counts))

    def batch(self, work: tuple[Rows, ...]) -> tuple[Batch, list[int]]:
        ids, positions, slots, request, linear, tail_start, tails, tables, counts = [], [], [], [], [], [0], [], [], []
        for number, item in enumerate(work):
            start = self.cached.setdefault(item.request, 0)
            trunk, nodes = len(item.tokens), len(item.draft)
            table = self._reserve(item.request, start + trunk + nodes)
            place = [table[p // self.page_size] * self.page_size + p % self.page_size for p in range(start + trunk + nodes)]
            depths = item.draft.depths()
            for row in range(trunk + nodes):
                node = row - trunk
                path = item.draft.path(node) if node >= 0 else []
                position = start + row if node < 0 else start + trunk - 1 + depths[node]
                tails += [place[start + trunk + step] for step in path]
                linear.append(position + 1 - len(path))
                positions.append(position)
                tail_start.append(len(tails))
            ids += [*item.tokens, *item.draft.tokens]
            slots += place[start:]
            request += [number] * (trunk + nodes)
            tables.append(table)
            counts.append(trunk + nodes)
        width = max(map(len, tables))
        pad = [table + [0] * (width - len(table)) for table in tables]
        ints = [torch.tensor(values, dtype=torch.int32) for values in (ids, positions, slots, request, linear, tail_start, tails, pad)]
        return Batch(*ints[:3], AttentionRows(ints[3], ints[1], *ints[4:])), counts

    def _reserve(self, request: int, tokens: int) -> list[int]:
        table = self.pages.setdefault(request, [])
        while len(table) * self.page_size < tokens:
            table.append(self.free.pop())
        return table
