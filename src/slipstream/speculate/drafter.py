"""What a drafter is. One file per drafter under drafters/, found by name; tests pass objects of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from slipstream.step.draft import DraftTree


@dataclass(frozen=True, slots=True)
class DraftContext:
    """A request that could use a draft.

    Attributes:
        request: the request's number.
        tokens: everything said so far, prompt first; the draft continues it. Read only.
        budget: nodes the draft may have, at least one.
    """

    request: int
    tokens: Sequence[int]
    budget: int


class Drafter(Protocol):
    """Guesses continuations. May be wrong in any way; never touches the engine's state."""

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        """One tree per context, empty where it has no guess; larger ones are cut to the budget."""

    def drop(self, request: int) -> None:
        """The request ended or was preempted: forget it."""
