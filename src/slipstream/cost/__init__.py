"""Floor 2: what a model costs, from its ModelSpec alone. Owns bytes, operations, limits and the memory plan; no torch, and
no knowledge of kernels, schedulers or machines beyond the numbers given.

    weights_bytes   weights as they lie in memory
    Work            what a step is asked to do: rows, logits, positions read, visible keys
    step_cost       bytes and operations of one step -> Cost
    limit           the least time that a Cost can take on a machine -> Limit
    Pace            the time that a step will take here, from the steps that were seen
    plan            does it fit, and how many pages of KV -> MemoryPlan
"""

from slipstream.cost.memory import MemoryPlan, kv_bytes, pages_that_fit, plan, scratch_bytes
from slipstream.cost.pace import Pace, assumed
from slipstream.cost.roofline import Limit, limit
from slipstream.cost.step import (
    KV_TYPES,
    LINEAR_ARITHMETIC,
    WEIGHT_FORMATS,
    Cost,
    Mix,
    WeightFormat,
    Work,
    format_of,
    linear_operations,
    step_cost,
    weights_bytes,
)

__all__ = [
    "KV_TYPES",
    "LINEAR_ARITHMETIC",
    "WEIGHT_FORMATS",
    "Cost",
    "Mix",
    "Limit",
    "MemoryPlan",
    "Pace",
    "WeightFormat",
    "Work",
    "assumed",
    "format_of",
    "kv_bytes",
    "limit",
    "linear_operations",
    "pages_that_fit",
    "plan",
    "scratch_bytes",
    "step_cost",
    "weights_bytes",
]
