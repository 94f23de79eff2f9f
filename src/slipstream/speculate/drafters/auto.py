"""What comes free: the text's own repetitions, and else the small model that comes with the checkpoint, if one does.

Owns which of the two guesses: a long agreement with an earlier place says more than a model knows. The small model is asked only for
requests in which the text does not repeat itself, and only as long as that pays (scheduler/controller.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipstream.speculate.choose import at_least
from slipstream.speculate.drafter import Around, DraftContext, Drafter
from slipstream.speculate.drafters import draft_model, suffix
from slipstream.step.draft import DraftTree

SURE = 5  # nodes of a suffix draft, which is one longer than its agreement, from which the model is not asked


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        nodes: tokens of a guess at most.
    """

    nodes: int = 8

    def __post_init__(self):
        at_least(1, nodes=self.nodes)


class Auto:
    """Repetitions first, then the model, if there is one."""

    def __init__(self, repeated: Drafter, model: Drafter | None, nodes: int):
        self.max_draft, self._repeated, self._model = nodes, repeated, model

    def propose(self, contexts: Sequence[DraftContext]) -> list[DraftTree]:
        trees = self._repeated.propose(contexts)
        if self._model is None:
            return trees
        open_ = [at for at, tree in enumerate(trees) if len(tree) < min(SURE, contexts[at].budget) and contexts[at].passes]
        if open_:
            for at, tree in zip(open_, self._model.propose([contexts[at] for at in open_]), strict=True):
                trees[at] = tree if tree.tokens else trees[at]
        return trees

    def drop(self, request: int) -> None:
        self._repeated.drop(request)
        if self._model is not None:
            self._model.drop(request)


def make(options: Options, around: Around) -> Auto:
    model = None if around.forward is None else draft_model.make(draft_model.Options(nodes=options.nodes), around)
    return Auto(suffix.make(suffix.Options(nodes=options.nodes), around), model, options.nodes)


def beside(options: Options, source: Path | str) -> Path | None:
    """The small model that comes with the checkpoint."""
    return draft_model.sibling(source)
