"""DraftTree: shape, merging, pruning."""

from hypothesis import given
from hypothesis import strategies as st

from slipstream.step.draft import ROOT, DraftTree

paths = st.lists(st.lists(st.integers(-2, 6), max_size=5), max_size=8)


def spoken(tree: DraftTree) -> set[tuple[int, ...]]:
    """Every beginning that the tree holds, as tokens."""
    return {tuple(tree.tokens[node] for node in tree.path(end)) for end in range(len(tree))}


@given(paths)
def test_merge_holds_exactly_the_beginnings_of_its_paths(guesses):
    tree = DraftTree.merge(guesses)
    tree.check()
    assert spoken(tree) == {tuple(path[: end + 1]) for path in guesses for end in range(len(path))}
    if guesses and guesses[0]:
        assert tree.path(len(guesses[0]) - 1) == list(range(len(guesses[0]))), "the first path is contiguous"


@given(paths, st.integers(0, 12), st.integers(0, 6))
def test_prune_keeps_a_closed_part_within_bounds(guesses, nodes, depth):
    tree = DraftTree.merge(guesses)
    pruned = tree.prune(nodes, depth, vocab=5)
    pruned.check()
    assert len(pruned) <= nodes
    assert all(level <= depth for level in pruned.depths())
    assert all(0 <= token < 5 for token in pruned.tokens)
    assert spoken(pruned) <= spoken(tree)
    valid = [path for path in spoken(tree) if len(path) <= depth and all(0 <= token < 5 for token in path)]
    assert len(pruned) == min(nodes, len(valid)), "nothing valid is thrown away"


def test_chain():
    chain = DraftTree.chain([4, 5, 6])
    assert chain.parents == (ROOT, 0, 1) and chain.depths() == [1, 2, 3] and chain.path(2) == [0, 1, 2]
    assert len(DraftTree.chain([])) == 0
