"""Weights of four bits with a scale and a zero per group of inputs, w = (code - zero) * scale: what GPTQ and AWQ mean.

Owns their unpacked form, and whether and how a kernel takes them as they are. Must not know how any format packs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

OP = "int4_zero"
BLOCK = 32  # inputs that share a scale in the kernel


@dataclass(frozen=True, slots=True)
class Grouped:
    """One layer.

    Attributes:
        codes: int32 [k, n].
        zeros: int32 [groups, n].
        scales: as stored [groups, n].
        index: group of each input. [k]
    """

    codes: Tensor
    zeros: Tensor
    scales: Tensor
    index: Tensor

    def plain(self) -> Tensor:
        """The weights, fp32 [n, k]."""
        return ((self.codes - self.zeros[self.index]).float() * self.scales.float()[self.index]).T.contiguous()

    def laid_out(self) -> dict[str, Tensor]:
        """The tensors of kernel OP; `runs` must hold."""
        k, n = self.codes.shape
        blocks = self.index[::BLOCK]  # [k / 32]
        halves = self.codes.T.reshape(n, k // BLOCK, 2, BLOCK // 2).to(torch.uint8)
        return {
            "weight": (halves[:, :, 0] | halves[:, :, 1] << 4).flatten(1),
            "scale": self.scales[blocks].T.contiguous(),
            "least": self.zeros[blocks].T.to(torch.uint8).contiguous(),
        }


def runs(scales: Tensor, index: Tensor | None, k: int, size: int) -> bool:
    """Whether kernel OP holds a layer exactly: fp16 scales, and whole blocks of neighbours in every group.

    Args:
        scales: [groups, n].
        index: stored group of each input, if there is one. [k]
        size: inputs of a group; -1 for all.
    """
    size = k if size == -1 else size
    plain = index is None or torch.equal(index.long(), torch.arange(k) // size)
    return scales.dtype is torch.float16 and k % BLOCK == 0 and size % BLOCK == 0 and plain
