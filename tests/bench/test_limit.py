"""The limit is what the probes and the cost formulas say, and never longer than that."""

import pytest

from slipstream.arch import shape
from slipstream.cost import Work, step_cost
from slipstream.engine import limit as limit_module
from slipstream.engine.limit import Limit
from slipstream.engine.meter import StepRecord
from slipstream.ops import probe

SPEC = shape("demo")


def step(*chunks, sampled=None) -> StepRecord:
    """A step of chunks (cached, rows), one row of each with logits unless said otherwise."""
    work = Work.of([(cached, rows, ()) for cached, rows in chunks], len(chunks) if sampled is None else sampled)
    return StepRecord(work, tokens=len(chunks), requests=len(chunks), seconds=0.0)


def test_any_mixture_of_chunks_is_exact(known_machine):
    """Two requests: 100 new rows after 20 cached, and one row after 300, by hand against the costs of either alone."""
    limit = Limit(SPEC, "int8", "fp32", 2)
    found, long, short = (limit.cost(one) for one in (step((20, 100), (300, 1)), step((20, 100)), step((300, 1))))
    position = 2 * sum(layer.mixer.kv_heads * layer.mixer.head_dim for layer in SPEC.layers) * 4
    assert (found.kv_read, found.kv_written) == ((120 + 301) * position, 101 * position)
    assert found.operations == (long + short).operations
    assert found.weights - short.weights == 100 * SPEC.hidden * 2, "a hundred more rows of the table"


def test_rows_without_logits_do_not_read_the_head(known_machine):
    limit = Limit(SPEC, "bf16", "bf16", 2)
    cost = limit.cost(step((0, 64), sampled=0))
    assert cost == step_cost(SPEC, "bf16", "bf16", Work.of([(0, 64, ())], sampled=0))
    assert limit.cost(step((0, 64))).weights - cost.weights == SPEC.vocab * SPEC.hidden * 2


def test_seconds_are_bytes_over_bandwidth_or_operations_over_peak(known_machine):
    limit = Limit(SPEC, "bf16", "bf16", 2)
    decode, prefill = step((9, 1)), step((0, 256))
    assert limit.seconds(decode) == pytest.approx(limit.cost(decode).bytes / 10e9)
    assert limit.seconds(prefill) == pytest.approx(sum(limit.cost(prefill).operations.values()) / 100e9)
    assert (limit.binds([decode]), limit.binds([prefill])) == ("memory", "compute")


def test_memory_is_probed_at_the_size_of_a_decode_step(known_machine):
    Limit(SPEC, "bf16", "bf16", 3, context=1000).probe()
    assert ("read", step_cost(SPEC, "bf16", "bf16", Work.of([(1000, 1, ())], 1)).bytes, 3) in known_machine


def test_a_large_model_is_probed_at_a_size_that_is_enough(known_machine):
    Limit(shape("llama-3.1-8b"), "bf16", "bf16", 1).probe()
    assert ("read", limit_module.ENOUGH, 1) in known_machine


def test_medians_of_the_readings_count(monkeypatch, known_machine):
    limit, speeds = Limit(SPEC, "bf16", "bf16", 2), iter((1.0, 30.0, 20.0))
    monkeypatch.setattr(probe, "read_bandwidth", lambda *_: next(speeds))
    for _ in range(3):
        limit.probe()
    assert limit.bandwidth == 20.0


def test_a_share_above_one_is_shown_as_it_is(known_machine):
    limit = Limit(SPEC, "bf16", "bf16", 2)
    steps = [step((9, 1))] * 4
    assert limit.share(steps, 2 * limit.seconds(steps[0])) == pytest.approx(2.0)


def test_a_step_that_only_released_costs_nothing(known_machine):
    limit = Limit(SPEC, "bf16", "bf16", 2)
    assert limit.seconds(step()) == 0
    assert limit.binds([step(), step((0, 256))]) == "compute"
