"""What a drafter's model or head takes is planned before it is loaded."""

import pytest

from slipstream import LLM
from slipstream.arch import shape
from slipstream.arch.heads import head_config, head_of
from slipstream.speculate.drafter import WINDOW


@pytest.mark.parametrize("kind", ["eagle", "medusa"])
def test_the_memory_of_a_head_is_planned(kind):
    sizes = dict(max_batch=4, max_step_tokens=64, max_len=128)
    plain, drafted = (LLM("dummy:tiny:bf16", **sizes, speculate=name) for name in ("none", f"{kind}:path=dummy"))
    forward = drafted.engine.executor.runner.drafter.other._forward
    head, width = forward._decoder, 64
    spec = head_of(head_config(kind, shape("tiny"), (2,), 4, 128), "dummy")
    weights = sum(tensor.size * (2 if tensor.role == "linear" else 4) for tensor in spec.tensors())
    outs = head.out().nbytes if kind == "medusa" else 0
    rope = 4 * 128 * 16 if kind == "eagle" else 0
    waiting = 4 * 4 * 2 * WINDOW * width if kind == "eagle" else 4 * 4 * width
    kept = rounds._kept.nbytes if (rounds := drafted.engine.executor.runner._rounds) is not None else 0
    real = kept + weights + head._scratch.bytes + head._ends.bytes + outs + rope + waiting + forward.pool.tensor.nbytes
    planned = drafted.engine.config.memory.drafter
    assert plain.engine.config.memory.drafter == 0
    assert real <= planned <= 1.6 * real
