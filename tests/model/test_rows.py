"""Promise P1 at the level of the decoder: a row's bits do not depend on the other rows of the step."""

import random

import pytest
import torch

from slipstream.model import load_model
from slipstream.step import DraftTree
from tests.model.paged import Paged, Rows

ROWS = 96
VOCAB = 512


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8"])
def decoder(request, kernels):
    return load_model("dummy:tiny", kernels, quant=request.param, max_rows=ROWS, max_logit_rows=ROWS)


@pytest.mark.parametrize("kv", [torch.float32, torch.bfloat16])
def test_rows_alone_equal_rows_in_batches(decoder, kv):
    chances = random.Random(11)
    tokens = chances.choices(range(VOCAB), k=26)
    alone = Paged(decoder, dtype=kv)
    expected = torch.cat([alone.step(Rows(0, [token]))[0] for token in tokens])
    for seed, chunk in ((1, 26), (2, 7), (3, 17)):
        crowd, found, at = Paged(decoder, dtype=kv, seed=seed, page_size=seed + 2), [], 0
        while at < len(tokens):
            work = [Rows(0, tokens[at : at + chunk])]
            work += [Rows(other, chances.choices(range(VOCAB), k=chances.randint(1, 8))) for other in range(1, 1 + chances.randint(0, 5))]
            chances.shuffle(work)
            results = dict(zip((item.request for item in work), crowd.step(*work), strict=True))
            found.append(results[0])
            at += chunk
        assert torch.equal(torch.cat(found), expected), f"chunks of {chunk}"


def test_tree_rows_equal_trunk_rows(decoder):
    tokens = random.Random(12).choices(range(VOCAB), k=20)
    alone = Paged(decoder)
    expected = torch.cat([alone.step(Rows(0, [token]))[0] for token in tokens])
    paged = Paged(decoder, page_size=3, seed=5)
    paged.step(Rows(0, tokens[:12]))
    tree = DraftTree.merge([[9, 9, 9], tokens[14:], [tokens[14], 3]])
    (logits,) = paged.step(Rows(0, tokens[12:14], tree))
    followed = [at for at in range(len(tree)) if [tree.tokens[step] for step in tree.path(at)] == tokens[14 : 14 + len(tree.path(at))]]
    assert len(followed) == 6
    assert torch.equal(logits[:2], expected[12:14])
    assert torch.equal(logits[[2 + at for at in followed]], expected[14:])


def test_logits_of_some_rows(decoder):
    paged = Paged(decoder)
    batch, _ = paged.batch((Rows(0, [1, 2, 3, 4, 5, 6, 7]),))
    hidden = decoder.forward(batch, paged.pool)
    every = decoder.logits(hidden, torch.arange(7, dtype=torch.int32)).clone()
    for rows in ([6], [3, 0], [5, 5, 1]):
        assert torch.equal(decoder.logits(hidden, torch.tensor(rows, dtype=torch.int32)), every[rows])
