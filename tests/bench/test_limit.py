"""The limit is what the probes and the cost formulas say, and never longer than that."""

import pytest

from slipstream.arch import shape
from slipstream.cost import step_cost
from slipstream.engine import limit as limit_module
from slipstream.engine.limit import Limit
from slipstream.engine.meter import StepRecord
from slipstream.ops import probe

SPEC = shape("demo")


def step(rows, context, requests, sampled=None) -> StepRecord:
    """A step; context counts the rows themselves, as the meter does."""
    return StepRecord(rows, sampled if sampled is not None else requests, context, requests, requests, 0.0)


def test_prefill_of_one_request_is_exact(known_machine):
    cost = step_cost(SPEC, "bf16", "bf16", rows=64, context=100, sampled_rows=1)
    assert Limit(SPEC, "bf16", "bf16", 2).cost(step(64, 164, 1)) == cost


def test_decode_of_a_batch_is_exact(known_machine):
    cost = step_cost(SPEC, "int8", "fp32", rows=8, context=50, sampled_rows=8, requests=8)
    found = Limit(SPEC, "int8", "fp32", 2).cost(step(8, 8 * 51, 8))
    assert (found.bytes, dict(found.operations)) == (cost.bytes, dict(cost.operations))


def test_unequal_chunks_never_make_the_limit_longer(known_machine):
    """Two requests: 100 new rows after 20 cached, and one row after 300."""
    long = step_cost(SPEC, "bf16", "bf16", rows=100, context=20, sampled_rows=1)
    short = step_cost(SPEC, "bf16", "bf16", rows=1, context=300, sampled_rows=1)
    found = Limit(SPEC, "bf16", "bf16", 2).cost(step(101, 120 + 301, 2))
    assert found.kv_read == long.kv_read + short.kv_read
    both = long.operations["fp32"] + short.operations["fp32"]
    assert 0.9 * both < found.operations["fp32"] <= both


def test_seconds_are_bytes_over_bandwidth_or_operations_over_peak(known_machine):
    limit = Limit(SPEC, "bf16", "bf16", 2)
    decode, prefill = step(1, 10, 1), step(256, 256, 1)
    assert limit.seconds(decode) == pytest.approx(limit.cost(decode).bytes / 10e9)
    assert limit.seconds(prefill) == pytest.approx(sum(limit.cost(prefill).operations.values()) / 100e9)
    assert (limit.binds([decode]), limit.binds([prefill])) == ("memory", "compute")


def test_memory_is_probed_at_the_size_of_a_decode_step(known_machine):
    Limit(SPEC, "bf16", "bf16", 3, context=1000).probe()
    assert ("read", step_cost(SPEC, "bf16", "bf16", 1, 1000, 1).bytes, 3) in known_machine


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
    steps = [step(1, 10, 1)] * 4
    assert limit.share(steps, 2 * limit.seconds(steps[0])) == pytest.approx(2.0)


def test_a_step_that_only_released_costs_nothing(known_machine):
    assert Limit(SPEC, "bf16", "bf16", 2).seconds(step(0, 0, 0)) == 0
