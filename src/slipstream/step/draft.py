"""DraftTree: tokens guessed ahead of the model, as a tree below the last known token. Plain Python."""

from collections.abc import Sequence
from dataclasses import dataclass

ROOT = -1
PREDICTION = "prediction"  # kind, and first word of the kinds, of drafts that a request brought itself


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Guessed tokens in topological order; siblings are unique, so at most one child can match a sampled token.

    Attributes:
        tokens: token id per node. [nodes]
        parents: index of the parent node, ROOT for a child of the last known token; always below the own index. [nodes]
        kind: in what way it was guessed, such as "ngram 3"; guesses of one kind are trusted alike (scheduler/controller.py).
        passes: calls of a model, one after the other, that it took; 0 if it cost next to nothing.
        again: whether its maker can guess anew within a step, each time that guesses were checked (worker/rounds.py).
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    kind: str = ""
    passes: int = 0
    again: bool = False

    def __len__(self) -> int:
        return len(self.tokens)

    @staticmethod
    def chain(tokens: Sequence[int], kind: str = "", passes: int = 0) -> "DraftTree":
        """One guess after the other."""
        return DraftTree(tuple(tokens), tuple(range(ROOT, len(tokens) - 1)), kind, passes)

    @staticmethod
    def merge(paths: Sequence[Sequence[int]]) -> "DraftTree":
        """A tree of several guesses; common beginnings are shared. Depth-first, the first path first, so that the
        likeliest path lies contiguously in the cache and nothing moves when it is kept."""
        children: dict[int, dict[int, int]] = {ROOT: {}}
        token_of: list[int] = []
        for path in paths:
            at = ROOT
            for token in path:
                if token not in children[at]:
                    children[at][token] = len(token_of)
                    children[len(token_of)] = {}
                    token_of.append(token)
                at = children[at][token]
        tokens: list[int] = []
        parents: list[int] = []
        stack = [(node, ROOT) for node in reversed(children[ROOT].values())]
        while stack:
            node, parent = stack.pop()
            tokens.append(token_of[node])
            parents.append(parent)
            stack.extend((child, len(tokens) - 1) for child in reversed(children[node].values()))
        return DraftTree(tuple(tokens), tuple(parents))

    def depths(self) -> list[int]:
        """Distance of each node from the last known token: 1 for its children. [nodes]"""
        out: list[int] = []
        for parent in self.parents:
            out.append(1 if parent == ROOT else out[parent] + 1)
        return out

    def path(self, node: int) -> list[int]:
        """Node indices from below the root down to and with `node`."""
        out = []
        while node != ROOT:
            out.append(node)
            node = self.parents[node]
        return out[::-1]

    def follow(self, tokens: Sequence[int]) -> list[int]:
        """Node indices along `tokens`, from below the root down, as far as the tree has them."""
        out, at = [], ROOT
        places = {(parent, token): node for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True))}
        for token in tokens:
            if (at, token) not in places:
                break
            at = places[at, token]
            out.append(at)
        return out

    def prune(self, nodes: int, depth: int, vocab: int) -> "DraftTree":
        """At most `nodes` nodes, none deeper than `depth`, none outside the vocabulary (nor below such a node)."""
        if len(self) <= min(nodes, depth) and all(0 <= token < vocab for token in self.tokens):
            return self  # the common case, a small valid draft: nothing to copy
        new_index: dict[int, int] = {ROOT: ROOT}
        tokens: list[int] = []
        parents: list[int] = []
        for node, (token, parent, level) in enumerate(zip(self.tokens, self.parents, self.depths(), strict=True)):
            if len(tokens) < nodes and level <= depth and 0 <= token < vocab and parent in new_index:
                new_index[node] = len(tokens)
                tokens.append(token)
                parents.append(new_index[parent])
        return DraftTree(tuple(tokens), tuple(parents), self.kind, self.passes, self.again)

    def trunk(self) -> int:
        """Nodes of the chain that it begins with, each a child of the one before."""
        return next((node for node, parent in enumerate(self.parents) if parent != node - 1), len(self.parents))

    def check(self) -> None:
        """Raises AssertionError unless the tree is topological and its siblings are unique."""
        assert len(self.tokens) == len(self.parents)
        assert all(ROOT <= parent < node for node, parent in enumerate(self.parents))
        assert len(set(zip(self.parents, self.tokens, strict=True))) == len(self.tokens), "equal siblings"


EMPTY = DraftTree()
