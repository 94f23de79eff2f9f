"""What trained drafters have in common: where their heads lie, and the tree that they make of what they drew. What a head is,
arch/heads.py says.
"""

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import Any

from slipstream.base.errors import InputError
from slipstream.speculate.drafter import States
from slipstream.step.draft import EMPTY, ROOT, DraftTree


def found(kind: str, path: str, source: Path | str) -> Path | str:
    """The folder of a head: the one that the user named, or the one that comes with the checkpoint.

    Args:
        kind: of head, also the name of its drafter.
        path: the user's; empty if there is none.
        source: the model that is drafted for.

    Raises:
        InputError: there is none.
    """
    if at := path or brought(kind, source):
        return at
    raise InputError(
        f"speculate={kind!r}: no head comes with {source}; name one, {kind}:path=FOLDER, or train one: slipstream train drafter"
    )


def brought(kind: str, source: Path | str) -> Path | None:
    """The head of a kind that comes with a checkpoint, or the small model ("draft"): a folder of that name in its own, or, of the
    built-in model, beside it."""
    folder = Path(source).parent / kind if Path(source).name == "demo" else Path(source) / kind
    return folder if (folder / "config.json").is_file() else None


def heads_of(kind: str) -> Callable[[Any, Path | str], tuple[str, Path | str]]:
    """The `heads` of a drafter whose option `path` names a folder, where none comes with the checkpoint. See `found`."""
    return lambda options, source: (kind, found(kind, options.path, source))


class Latest:
    """The last state of each request, for heads that need no more: of the token before its last."""

    def __init__(self) -> None:
        self._state: dict[int, States] = {}

    def watch(self, states: Sequence[States]) -> None:
        for one in states:
            last = one.rows[-1:].clone()  # a copy, so that the others can go
            self._state[one.request] = States(one.request, one.start + len(one.rows) - 1, last)

    def get(self, request: int) -> States | None:
        return self._state.get(request)

    def drop(self, request: int) -> None:
        self._state.pop(request, None)


def branched(chosen: Sequence[Sequence[int]], nodes: int, kind: str, passes: int) -> DraftTree:
    """A chain of first choices with other choices beside it, which nothing follows.

    A draft that goes wrong mostly does so where the head was not sure, and then its second choice is the likeliest. Second choices cost
    the head nothing. The chain comes first, so that cutting the tree cuts them.

    Args:
        chosen: per depth the first choice, then others; at no depth more than at the first. [depths][choices]
        nodes: in all at most; what the chain leaves goes to second choices from the first depth on, then to third ones.
        kind, passes: see DraftTree.
    """
    if not chosen:
        return EMPTY
    chain = [choices[0] for choices in chosen][:nodes]
    tokens, parents = chain, list(range(ROOT, len(chain) - 1))
    for rank in range(1, len(chosen[0])):
        for depth, choices in enumerate(chosen):
            new = choices[rank : rank + 1]
            if len(tokens) < nodes and new and new[0] not in choices[:rank]:  # where hardly any token is allowed, one comes again
                tokens.append(choices[rank])
                parents.append(depth - 1 if depth else ROOT)
    return DraftTree(tuple(tokens), tuple(parents), kind, passes)


def crossed(chosen: Sequence[Sequence[tuple[int, float]]], nodes: int, kind: str, passes: int) -> DraftTree:
    """The likeliest tree where no guess knows the ones before it (Medusa's): every choice at a depth may follow every one before. Likeliest
    nodes first, so that a tree that is cut is the best of its size.

    Args:
        chosen: per depth the choices, each with the logarithm of its share. [depths][choices]
        nodes: in all at most.
        kind, passes: see DraftTree.
    """
    tokens, parents, open_ = [], [], []  # open_: (-score, depth, parent, token)

    def follow(parent: int, depth: int, score: float) -> None:
        for token, share in chosen[depth] if depth < len(chosen) else ():
            heappush(open_, (-(score + share), depth, parent, token))

    follow(ROOT, 0, 0.0)
    while open_ and len(tokens) < nodes:
        score, depth, parent, token = heappop(open_)
        tokens.append(token)
        parents.append(parent)
        follow(len(tokens) - 1, depth + 1, -score)
    return DraftTree(tuple(tokens), tuple(parents), kind, passes) if tokens else EMPTY
