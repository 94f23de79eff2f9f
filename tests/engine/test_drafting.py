"""What a drafter's model or head takes is planned before it is loaded."""

import pytest

from slipstream import LLM, SamplingParams
from slipstream.arch import shape
from slipstream.arch.heads import head_config, head_of
from slipstream.base.errors import InputError
from slipstream.speculate.drafter import WINDOW


@pytest.mark.parametrize("kind", ["eagle", "medusa"])
def test_the_memory_of_a_head_is_planned(kind):
    sizes = dict(max_batch=4, max_step_tokens=64, max_len=128)
    plain, drafted = (LLM("dummy:tiny:bf16", **sizes, speculate=name) for name in ("none", f"{kind}:path=dummy"))
    forward = drafted.engine.executor.runner.drafter.other._forward
    head, width = forward._decoder, 64
    spec = head_of(head_config(kind, shape("tiny"), (2,), 4, 160), "dummy")
    weights = sum(tensor.size * (2 if tensor.role == "linear" else 4) for tensor in spec.tensors())
    outs = head.out().nbytes if kind == "medusa" else 0
    rope = 4 * 128 * 16 if kind == "eagle" else 0
    waiting = 4 * 4 * 2 * WINDOW * width if kind == "eagle" else 4 * 4 * width
    kept = rounds._kept.nbytes if (rounds := drafted.engine.executor.runner._rounds) is not None else 0
    real = kept + weights + head._scratch.bytes + head._ends.bytes + outs + rope + waiting + forward.pool.tensor.nbytes
    planned = drafted.engine.config.memory.drafter
    assert plain.engine.config.memory.drafter == 0
    assert real <= planned <= 1.6 * real


@pytest.mark.parametrize(
    "path, message",
    [
        ("dummy:int5", "format='int5'"),
        ("dummy:bf16:513", "rows='513' must be a number from 1 to the vocabulary, 512"),
        ("dummy::x", "rows='x'"),
    ],
)
def test_made_up_heads_that_cannot_be(path, message):
    with pytest.raises(InputError, match=message):
        LLM("dummy:tiny:bf16", speculate=f"eagle:path={path}")


def test_a_made_up_head_is_as_wide_as_its_model_and_rounded_like_it():
    """With an output layer of its own it guesses only the tokens that this has."""
    llm = LLM("dummy:tiny:bf16", speculate="eagle:path=dummy:int4:64,nodes=3,depth=3,width=1", control=False)
    drafter = llm.engine.executor.runner.drafter.other
    head, guessed, propose = drafter._forward._decoder, [], drafter.propose
    assert head.spec.layers[0].ffn.width == shape("tiny").layers[0].ffn.width and head._format == "int4"

    def seen(contexts):
        trees = propose(contexts)
        guessed.extend(token for tree in trees for token in tree.tokens)
        return trees

    llm.engine.executor.runner.drafter.propose = seen
    llm.generate([[1, 2, 3]], SamplingParams(max_tokens=12, ignore_eos=True, temperature=0))
    assert guessed and all(token % 8 == 0 for token in guessed)
