"""What comes free: the text's own repetitions, and else the small model or the head that comes with the checkpoint, if one does.

Owns which of the two guesses: a long agreement with an earlier place says more than a model knows. The model is asked only for
requests in which the text does not repeat itself, and only as long as that pays (scheduler/controller.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slipstream.speculate.choose import Choice, at_least, choose
from slipstream.speculate.compose import Composed
from slipstream.speculate.drafter import Around, DraftContext, Drafter
from slipstream.speculate.drafters import draft_model, suffix
from slipstream.speculate.learned import brought
from slipstream.step.draft import DraftTree

SURE = 5  # nodes of a suffix draft, which is one longer than its agreement, from which the model is not asked
HEADS = ("eagle", "mtp", "redrafter", "medusa", "blockwise")  # that may lie in a checkpoint's folder, the one to be taken first


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        nodes: tokens of a guess at most.
    """

    nodes: int = 8

    def __post_init__(self):
        at_least(1, nodes=self.nodes)


class Auto(Composed):
    """Repetitions first, then the model or head, if there is one."""

    def __init__(self, repeated: Drafter, model: Drafter | None, nodes: int):
        super().__init__([repeated] if model is None else [repeated, model])
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


def make(options: Options, around: Around) -> Auto:
    model = None
    if around.head is not None:
        model = _head(around.head.kind, options).make(around)
    elif around.forward is not None:
        model = draft_model.make(draft_model.Options(nodes=options.nodes), around)
    return Auto(suffix.make(suffix.Options(nodes=options.nodes), around), model, options.nodes)


def beside(options: Options, source: Path | str) -> Path | str | None:
    """The small model that comes with the checkpoint."""
    return draft_model.beside(draft_model.Options(), source) if brought(draft_model.SIBLING, source) else None


def heads(options: Options, source: Path | str) -> tuple[str, Path] | None:
    """The head that comes with it, where no small model does."""
    if brought(draft_model.SIBLING, source):
        return None
    return next(((kind, folder) for kind in HEADS if (folder := brought(kind, source))), None)


def _head(kind: str, options: Options) -> Choice:
    """A head's drafter, which guesses no further than asked."""
    choice = choose(kind)
    return replace(choice, options=replace(choice.options, nodes=min(choice.options.nodes, options.nodes)))
