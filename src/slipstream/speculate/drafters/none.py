"""No speculation: the null drafter."""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.base.errors import InputError
from slipstream.speculate.drafter import Around, DraftContext
from slipstream.step.draft import EMPTY, DraftTree


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        nodes: tokens of a guess.
    """

    nodes: int = 0

    def __post_init__(self):
        if self.nodes:
            raise InputError(f"speculate='none': nodes={self.nodes} cannot be; choose a drafter")


class NoDrafter:
    max_draft = 0  # the scheduler plans no draft rows, so propose() is asked for nothing

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        return [EMPTY] * len(contexts)

    def drop(self, request: int) -> None:
        return None


def make(options: Options, around: Around) -> NoDrafter:
    return NoDrafter()
