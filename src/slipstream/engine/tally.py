"""The tally of drafts: how many were checked, and how far they were right. Owns these counts and the words for them; who drafted, and
whether it paid, is not its business.

    step       one request that said something in one step of the engine, with a draft or without
    drafts     steps in which nodes were checked
    accepted   nodes that were right; each step says one token more than were
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from slipstream.step import Plan, Result


@dataclass(slots=True)
class Tally:
    """Counts since it was made, or between two moments (`since`).

    Attributes:
        steps, drafts: see above.
        drafted, accepted: nodes.
        accepted_at: of them at depth 1, 2, ...; divided by `drafts` it falls with the depth.
        drafting: seconds in which drafts were made.
    """

    steps: int = 0
    drafts: int = 0
    drafted: int = 0
    accepted: int = 0
    accepted_at: list[int] = field(default_factory=list)
    drafting: float = 0.0

    def record(self, plan: Plan, result: Result) -> None:
        """Counts what came of a plan. A text that ends inside a draft counts with all that was right of it."""
        self.drafting += result.drafting
        for chunk, outcome in zip(plan.chunks, result.outcomes, strict=True):
            if not outcome.tokens:
                continue
            if not chunk.draft.tokens:
                self.steps += len(outcome.tokens)  # one in every pass
                continue
            for said in outcome.said:
                self._checked(len(chunk.draft), said - 1)

    def _checked(self, nodes: int, kept: int) -> None:
        self.steps += 1
        self.drafts += 1
        self.drafted += nodes
        self.accepted += kept
        self.accepted_at.extend(0 for _ in range(len(self.accepted_at), kept))
        for depth in range(kept):
            self.accepted_at[depth] += 1

    def copy(self) -> "Tally":
        return Tally(self.steps, self.drafts, self.drafted, self.accepted, list(self.accepted_at), self.drafting)

    def since(self, before: "Tally") -> "Tally":
        """What was counted after `before`, a copy of an earlier moment."""
        earlier = [*before.accepted_at, *[0] * (len(self.accepted_at) - len(before.accepted_at))]
        at = [now - then for now, then in zip(self.accepted_at, earlier, strict=True)]
        steps, drafts, drafted = self.steps - before.steps, self.drafts - before.drafts, self.drafted - before.drafted
        return Tally(steps, drafts, drafted, self.accepted - before.accepted, at, self.drafting - before.drafting)

    @property
    def per_step(self) -> float:
        """Tokens per step, over all steps; plain decoding has 1."""
        return 1 + self.accepted / self.steps if self.steps else 0.0

    @property
    def per_draft(self) -> float:
        """Tokens per drafted step, the one that the model adds included; 0 if there was none."""
        return 1 + self.accepted / self.drafts if self.drafts else 0.0

    def by_depth(self, depths: int) -> Sequence[float]:
        """Share of the drafts that were right at depth 1, 2, ... and before it. [depths]"""
        at = [*self.accepted_at, *[0] * depths][:depths]
        return [count / self.drafts if self.drafts else 0.0 for count in at]
