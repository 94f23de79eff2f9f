"""Ops that read one row and write one row: embedding, norms, activations, scaling."""

import torch
from torch import Tensor

from slipstream.ops.reference.arithmetic import exp, fma, gelu_of, gelu_tanh_of, tanh, total


def embed(ids: Tensor, table: Tensor, out: Tensor) -> None:
    """out [rows, hidden] = rows `ids` [rows] of `table` [vocab, hidden] (fp32 or bf16)."""
    out.copy_(table.index_select(0, ids))


def norm(x: Tensor, weight: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """RMSNorm (Zhang and Sennrich 2019): out = x / sqrt(mean(x^2) + eps) * weight.

    Args:
        x: [rows, hidden]; `residual` [rows, hidden], if given, is added to it in place first.
        weight: [hidden].
        out: [rows, hidden].
    """
    if residual is not None:
        x.add_(residual)
    mean = total(x * x).div_(x.shape[1])  # [rows]
    scale = 1.0 / (mean + eps).sqrt()
    torch.mul(x * scale[:, None], weight, out=out)


def gated(gate_up: Tensor, out: Tensor) -> None:
    """SwiGLU (Shazeer 2020): out [rows, f] = silu(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gate / (1 + exp(-gate)), up, out=out)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor, residual: Tensor | None = None) -> None:
    """LayerNorm (Ba et al. 2016): out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias. Arguments as `norm`; bias [hidden]."""
    if residual is not None:
        x.add_(residual)
    centred = x - total(x).div_(x.shape[1])[:, None]
    scale = 1.0 / (total(centred * centred).div_(x.shape[1]) + eps).sqrt()
    out.copy_(fma(centred * scale[:, None], weight, bias))


def norm_slices(x: Tensor, weight: Tensor, start: int, size: int, eps: float) -> None:
    """RMSNorm of parts of a row, in place: columns start .. start + len(weight), every `size` of them by themselves.

    Args:
        x: [rows, any width].
        weight: for all slices, one after the other.
    """
    count = len(weight) // size
    slices = x[:, start : start + len(weight)].reshape(-1, size)  # a copy, [rows * slices, size]
    scale = 1.0 / (total(slices * slices).div_(size) + eps).sqrt()
    x[:, start : start + len(weight)] = ((slices * scale[:, None]).view(len(x), count, size) * weight.view(count, size)).flatten(1)


def gated_gelu(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gelu_of(gate), up, out=out)


def gated_gelu_tanh(gate_up: Tensor, out: Tensor) -> None:
    """out [rows, f] = gelu_tanh(gate) * up of gate_up [rows, 2 * f], gate first."""
    gate, up = gate_up.chunk(2, dim=1)
    torch.mul(gelu_tanh_of(gate), up, out=out)


def gelu(x: Tensor) -> None:
    """gelu of x [rows, f] in place."""
    x.copy_(gelu_of(x))


def gelu_tanh(x: Tensor) -> None:
    """gelu_tanh of x [rows, f] in place."""
    x.copy_(gelu_tanh_of(x))


def add(x: Tensor, y: Tensor) -> None:
    """x += y, both [rows, f]."""
    x.add_(y)


def scale(x: Tensor, factor: float) -> None:
    """x [rows, f] *= factor, which is rounded to fp32 first."""
    x.mul_(torch.tensor(factor, dtype=torch.float32))


def spread(some: Tensor, places: Tensor, out: Tensor) -> None:
    """out [rows, f]: column c is column places[c] of some [rows, n], or -inf where places [f] is below 0."""
    out.copy_(some[:, places.clamp(min=0).long()].masked_fill(places < 0, float("-inf")))


def softcap(x: Tensor, cap: float) -> None:
    """x [rows, f] = cap * tanh(x / cap), in place."""
    x.copy_(tanh(x / cap) * cap)
