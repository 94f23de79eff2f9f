"""Verification by match: the draft only decides how far one step reaches, never what is said.

A node is kept iff its parent is kept and its token equals the token sampled at its parent. Exact for any draft, at any
temperature, because the noise of a position does not depend on the draft (docs/numerics.md, section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from slipstream.step.draft import ROOT, DraftTree

EXACT = True


@dataclass(frozen=True)
class Options:
    """There are none."""


def match(tree: DraftTree, sampled: Sequence[int]) -> tuple[list[int], list[int]]:
    """Walks the tree.

    Args:
        tree: the draft; siblings are unique, so at most one child of a node can be kept.
        sampled: the token drawn at the last trunk row, then at each node. [1 + nodes]

    Returns:
        kept: node indices of the kept path, ascending.
        tokens: their tokens followed by the token drawn at the last of them. [kept + 1]
    """
    kept: list[int] = []
    at = ROOT
    for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        if parent == at and token == sampled[at + 1]:
            kept.append(node)
            at = node
    return kept, [*(tree.tokens[node] for node in kept), sampled[at + 1]]
