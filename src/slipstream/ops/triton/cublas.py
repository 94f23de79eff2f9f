"""cuBLAS, as linear layers call it: sums and results in fp32. The order of sums depends on the number of rows."""

import torch
from torch import Tensor


def cublas(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """out = x @ weight.T; on the CPU, in tests, with whatever multiplies fp32 there.

    Args:
        x: [rows, k], weight: [n, k], both fp32 (without TF32, as torch has it by default) or both bf16.
        out: fp32 [rows, n], whose rows may lie apart.
    """
    if x.is_cuda and x.dtype is torch.bfloat16:
        torch.mm(x, weight.t(), out_dtype=torch.float32, out=out)
    else:
        torch.mm(x.float(), weight.float().t(), out=out)
