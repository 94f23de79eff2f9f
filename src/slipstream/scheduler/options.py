"""What the scheduler has to share out, and how it stands. Data only."""

import math
import sys
from dataclasses import dataclass

from slipstream.base.errors import InputError


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """What the scheduler has to share out.

    Attributes:
        page_size: tokens per page.
        pages: pages in the pool.
        max_batch: requests that run at a time.
        max_step_tokens: rows per step, drafts included. Never more requests run than this.
        max_len: tokens per request, prompt and output.
        max_chunk: trunk rows of one request per step.
        prefix_cache: whether texts computed before are found again.
        policy: a file of scheduler/policies.
        vocab: token ids go from 0 to vocab - 1; drafts are cut where they leave this range.
        max_draft: nodes per draft; 0 without speculation.
        target_itl: seconds that a step should take at most while somebody reads along; 0: only rows count. Needs a pace.
        ahead: plans that may be under way when the next is made.
        max_drawn: requests that draw at a time; a step of more takes one pass.
    """

    page_size: int
    pages: int
    max_batch: int
    max_step_tokens: int
    max_len: int
    max_chunk: int
    prefix_cache: bool
    policy: str
    vocab: int
    max_draft: int
    target_itl: float = 0.0
    ahead: int = 0
    max_drawn: int = sys.maxsize

    def __post_init__(self):
        for name in ("page_size", "pages", "max_batch", "max_step_tokens", "max_len", "max_chunk", "vocab"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}: must be at least 1")
        if self.max_draft < 0:
            raise InputError(f"max_draft={self.max_draft!r}: must not be negative; 0 is no speculation")
        if self.ahead < 0:
            raise InputError(f"ahead={self.ahead!r}: must not be negative; 0 plans a step when the one before is over")
        if not 0 <= self.target_itl < math.inf:
            raise InputError(f"target_itl={self.target_itl!r}: must be seconds, not negative; 0 is no target")


@dataclass(frozen=True, slots=True)
class Stats:
    """Requests and pages now; hits (tokens found in the prefix tree or shared with a leader) and preemptions so far."""

    running: int
    waiting: int
    free_pages: int
    idle_pages: int
    hits: int
    preemptions: int
