"""Logits of the decoder against transformers' LlamaForCausalLM on the same random checkpoint."""

import random

import pytest
import torch

from slipstream.model import load_model
from slipstream.step import DraftTree
from tests.model.paged import Paged, Rows

ROWS = 160
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def pair(checkpoint, kernels):
    """(oracle: tokens -> logits of all positions, decoder)."""
    model, folder = checkpoint

    def oracle(tokens):
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0]

    return oracle, load_model(folder, kernels, max_rows=ROWS, max_logit_rows=ROWS)


def some_tokens(length, seed):
    return random.Random(seed).choices(range(97), k=length)


def assert_close(found, expected):
    assert expected.abs().max() > 1, "the oracle's logits are too small to compare"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_prefill_at_once(pair):
    oracle, decoder = pair
    tokens = some_tokens(100, 1)
    (logits,) = Paged(decoder).step(Rows(0, tokens))
    assert_close(logits, oracle(tokens))


def test_token_by_token(pair):
    oracle, decoder = pair
    tokens, paged = some_tokens(24, 2), Paged(decoder)
    logits = torch.cat([paged.step(Rows(0, [token]))[0] for token in tokens])
    assert_close(logits, oracle(tokens))


def test_ragged_batches_in_one_pool(pair):
    oracle, decoder = pair
    chances = random.Random(3)
    texts = {number: some_tokens(chances.randint(1, 40), 100 + number) for number in range(5)}
    paged, found, done = Paged(decoder), {number: [] for number in texts}, dict.fromkeys(texts, 0)
    while waiting := [number for number in texts if done[number] < len(texts[number])]:
        work = []
        for number in chances.sample(waiting, chances.randint(1, len(waiting))):
            some = texts[number][done[number] : done[number] + chances.randint(1, 9)]
            done[number] += len(some)
            work.append(Rows(number, some))
        for item, logits in zip(work, paged.step(*work), strict=True):
            found[item.request].append(logits)
    for number, tokens in texts.items():
        assert_close(torch.cat(found[number]), oracle(tokens))


def test_tree_rows(pair):
    oracle, decoder = pair
    paged, start = Paged(decoder), some_tokens(11, 4)
    tree = DraftTree((5, 9, 7, 5, 60, 61, 5), (-1, -1, 0, 1, 3, 2, 0))
    paged.step(Rows(0, start[:6]), Rows(1, some_tokens(3, 5)))
    _, logits = paged.step(Rows(1, [8]), Rows(0, start[6:], tree))
    assert_close(logits[:5], oracle(start)[6:])
    for node in range(len(tree)):
        path = [tree.tokens[step] for step in tree.path(node)]
        assert_close(logits[5 + node], oracle(start + path)[-1])
    (after,) = paged.step(Rows(0, [33]))  # the tree was not kept: its slots are written anew
    assert_close(after, oracle(start + [33])[-1:])
