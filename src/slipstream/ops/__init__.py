"""Floor 2: every computation on tensors, behind one table of kernels.

    Kernels         the chosen candidate of each op, and why the others declined
    KV              one layer's cache
    AttentionRows   which keys each row sees
    SampleRows      sampling parameters of each row
    LinearKernel    a linear layer of one weight format

Owns the arithmetic of docs/numerics.md. Must not know models, requests or the scheduler.
"""

from slipstream.ops.dispatch import Choice, Kernels
from slipstream.ops.types import KV, AttentionRows, Declined, LinearKernel, SampleRows

__all__ = ["KV", "AttentionRows", "Choice", "Declined", "Kernels", "LinearKernel", "SampleRows"]
