"""Muon (Jordan et al. 2024) in fp32: the update of a matrix is its momentum, made nearly orthogonal.

Owns that one rule. torch.optim.Muon computes the same in bf16, for which most CPUs have no arithmetic: there it takes four times as long as
the rest of a step.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

STEPS = ((3.4445, -4.7750, 2.0315),) * 5  # coefficients of the iteration, as published


class Muon(torch.optim.Optimizer):
    """
    Args:
        parameters: matrices.
        lr: learning rate; an update of an [n, k] matrix is about sqrt(max(1, n / k)) in every direction.
        momentum: Nesterov's.
        decay: of weights, relative to the learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.02):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(parameter)
                mean = state["mean"].lerp_(parameter.grad, 1 - group["momentum"])
                update = orthogonal(parameter.grad.lerp(mean, group["momentum"]))
                rows, columns = parameter.shape
                parameter.mul_(1 - group["lr"] * group["decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near 1, by a Newton-Schulz iteration. [n, k] -> [n, k]"""
    x = matrix / (matrix.norm() + 1e-7)
    turned = x.shape[0] > x.shape[1]
    x = x.T if turned else x
    for a, b, c in STEPS:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x
