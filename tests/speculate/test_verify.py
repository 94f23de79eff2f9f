"""match(): against the definition, for any tree and any samples."""

from hypothesis import given
from hypothesis import strategies as st

from slipstream.speculate.verify.match import match
from slipstream.step.draft import ROOT, DraftTree


@st.composite
def tree_and_samples(draw):
    tree = DraftTree.merge(draw(st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6)))
    return tree, draw(st.lists(st.integers(0, 3), min_size=len(tree) + 1, max_size=len(tree) + 1))


@given(tree_and_samples())
def test_match_walks_as_token_by_token_sampling_would(case):
    tree, sampled = case
    kept, tokens = match(tree, sampled)
    at, expected = ROOT, []
    while True:  # the definition: say what was sampled here; go on below if it was guessed
        expected.append(sampled[at + 1])
        below = [node for node in range(len(tree)) if tree.parents[node] == at and tree.tokens[node] == sampled[at + 1]]
        if not below:
            break
        at = below[0]
    assert tokens == expected
    assert kept == (tree.path(at) if at != ROOT else [])
    assert kept == sorted(kept)
