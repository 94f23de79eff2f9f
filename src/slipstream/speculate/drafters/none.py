"""No speculation: the null drafter."""

from collections.abc import Sequence

from slipstream.speculate.drafter import DraftContext
from slipstream.step.draft import EMPTY, DraftTree


class NoDrafter:
    max_draft = 0  # the scheduler plans no draft rows, so propose() is asked for nothing

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [EMPTY] * len(contexts)

    def drop(self, request: int) -> None:
        return None


def make() -> NoDrafter:
    return NoDrafter()
