"""The limit of a step."""

import math

import pytest

from slipstream.base.errors import InputError
from slipstream.cost import Cost, Work, limit, step_cost

GIGA = 10**9
COST = Cost(weights=6 * GIGA, kv_read=3 * GIGA, kv_written=GIGA, operations={"int8": 400 * GIGA, "fp32": 50 * GIGA})
BOTH = {"int8": 1, "fp32": 1}


def test_both_sides_and_the_longer_one():
    slow = limit(COST, bandwidth=10.0, peaks={"int8": 800.0, "fp32": 100.0})
    assert (slow.memory, slow.compute) == (1.0, 1.0)  # 10 GB at 10 GB/s; 400 at 800 and 50 at 100 Gop/s
    assert limit(COST, 5.0, {"int8": 800.0, "fp32": 100.0}).seconds == 2.0
    assert limit(COST, 5.0, {"int8": 800.0, "fp32": 100.0}).binds == "memory"
    busy = limit(COST, 10.0, {"int8": 400.0, "fp32": 50.0})
    assert (busy.seconds, busy.binds) == (2.0, "compute")
    assert busy.share(4.0) == 0.5


def test_decode_of_llama_3_2_1b_is_bound_by_memory_and_prefill_by_compute(one_billion):
    peaks = {"fp32": 200.0}
    decode = limit(step_cost(one_billion, "bf16", "bf16", Work.of([(1000, 1, ())], 1)), 25.0, peaks)
    assert decode.binds == "memory"
    assert math.isclose(decode.seconds, (2_471_768_064 + 1002 * 32_768) / 25e9)
    assert limit(step_cost(one_billion, "bf16", "bf16", Work.of([(0, 512, ())], 1)), 25.0, peaks).binds == "compute"


def test_only_the_peaks_that_are_needed():
    assert limit(Cost(weights=GIGA, operations={"int8": 0}), 1.0, {}).seconds == 1.0


@pytest.mark.parametrize(("bandwidth", "peaks"), [(0.0, BOTH), (math.nan, BOTH), (1.0, {"int8": 1}), (1.0, BOTH | {"fp32": 0})])
def test_missing_probes_are_named(bandwidth, peaks):
    with pytest.raises(InputError, match="probe it first"):
        limit(COST, bandwidth, peaks)
