"""The reference candidate: every op in torch. Serves where no native module is, and is the oracle in tests.

Owns its arithmetic, a profile of its own with the structure of docs/numerics.md. Must not know other candidates.

The value of a row may depend neither on its neighbours nor on the number of threads, but torch picks algorithms by
shape, and by the thread that meets an element. So only this is used here:
  * +, -, *, /, sqrt, max, rint and comparisons: exactly rounded, the same for every shape;
  * `exp` and `log` built from those, because torch's differ between the vector body and the scalar tail of a tensor;
  * sums as the last element of `cumsum`, which runs in order (`sum` cuts a long row by the number of threads);
  * matrix products only in shapes that no neighbour can change: blocks of 16 rows, or one row of attention by itself,
    on one thread and on freshly allocated inputs, because products also depend on threads and on alignment.
"""

from slipstream.ops.reference.cached import attention, attention_sinks, attention_softcap, move, rope_write
from slipstream.ops.reference.experts import gate_rows, gated_clamped, route, routed
from slipstream.ops.reference.linear import linear
from slipstream.ops.reference.rounds import lay_out, walk
from slipstream.ops.reference.rows import (
    add,
    embed,
    gated,
    gated_gelu,
    gated_gelu_tanh,
    gelu,
    gelu_tanh,
    layer_norm,
    norm,
    norm_slices,
    scale,
    softcap,
    spread,
)  # fmt: skip
from slipstream.ops.reference.sampling import logprobs, sample
from slipstream.ops.types import LINEAR_OPS, Declined, LinearKernel, Op, of_linear_op

NAME = "reference"
VERSION = 2
PROFILE = f"{NAME}.{VERSION}"

OFFERED: dict[str, Op | LinearKernel] = {
    "embed": embed,
    "norm": norm,
    "rope_write": rope_write,
    "attention": attention,
    "gated": gated,
    "sample": sample,
    "logprobs": logprobs,
    "move": move,
    "lay_out": lay_out,
    "walk": walk,
    "layer_norm": layer_norm,
    "norm_slices": norm_slices,
    "attention_softcap": attention_softcap,
    "gated_gelu": gated_gelu,
    "gated_gelu_tanh": gated_gelu_tanh,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "add": add,
    "scale": scale,
    "softcap": softcap,
    "spread": spread,
    "route": route,
    "routed": routed,
    "gate_rows": gate_rows,
    "gated_clamped": gated_clamped,
    "attention_sinks": attention_sinks,
    **{op: linear(*of_linear_op(op)) for op in LINEAR_OPS},
}


def offer(op: str, device: str) -> Op | LinearKernel | Declined:
    """The kernel of `op`; everything on the CPU is served."""
    if device != "cpu":
        return Declined(f"runs on the cpu only, not on {device}")
    return OFFERED.get(op) or Declined(f"has no op {op!r}; known: {', '.join(OFFERED)}")
