"""Chain: kernels that are launched while the one before still ends (programmatic dependent launch, Hopper and later).

Owns what a kernel says before its first read. Launched by a Variant, it may run as soon as every program of the kernel before has begun.
So each calls `await_turn` before it reads or writes anything that another kernel writes, and all of them do, that each can rely on what
lies further back. Weights and tables, which no kernel writes, may be read before that: then memory does not stand still between kernels.
On older GPUs and in Triton's interpreter all of this is nothing.
"""

from functools import cache

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.target_info import current_target
from triton.runtime.jit import constexpr_function

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@cache  # asked for once: processes forked later to compile must not touch the device
def _chained() -> bool:
    if triton.knobs.runtime.interpret:
        return False
    target = current_target()
    return target is None or (target.backend == "cuda" and target.arch >= 90)


_chained.__triton_builtin__ = True  # as Triton's own are marked: it may be asked where kernels are compiled


@constexpr_function
def chained():
    """Whether kernels are compiled for such launches; where they are compiled ahead of time, without a GPU, they are."""
    return _chained()


@triton.jit
def await_turn():
    """Lets the next kernel begin, and waits until the one before has ended and all that it wrote can be read."""
    if not INTERPRETED and chained():
        gdc_launch_dependents()
        gdc_wait()
