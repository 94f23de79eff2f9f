"""Elementary arithmetic that gives a row the same bits whatever its neighbours: exp, log, fma, sums, tanh, gelu."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

ERF_TAIL = (  # P of docs/numerics.md, `gelu`, lowest power first
    *(0.098741888999939, 0.0985691770911217, 0.0939511805772781, 0.0755931213498116, 0.0730211585760117),
    *(0.0435089953243732, -0.013852051459252834, 0.09072981029748917, -0.07946369796991348, 0.01920042559504509),
)
LOG2E, LN2 = math.log2(math.e), math.log(2)
THREAD_SETTING = threading.RLock()  # torch's number of threads belongs to the process


def exp(x: Tensor) -> Tensor:
    """e^x of fp32 `x` of any shape, to half an ulp: fp64 inside, 2^n times a Taylor polynomial; 0 below -87.3."""
    return exp_wide(x.double().clamp_(-200.0, 200.0)).masked_fill_(x < -87.3, 0.0).float()


def exp_wide(wide: Tensor) -> Tensor:
    """e^x of fp64 numbers within -200 .. 200, relative error 2e-10."""
    n = torch.round(wide * LOG2E)
    r = wide - n * LN2  # |r| <= ln(2) / 2
    p = torch.full_like(r, 1 / math.factorial(8))
    for k in range(7, -1, -1):
        p.mul_(r).add_(1 / math.factorial(k))
    power = (n.long() + 1023 << 52).view(torch.float64)  # 2^n by its exponent bits
    return p.mul_(power)


def log(x: Tensor) -> Tensor:
    """Natural logarithm of positive normal fp32 `x` of any shape, to half an ulp: 2 artanh((m - 1) / (m + 1)) + n ln 2."""
    m, n = torch.frexp(x)  # m in [1/2, 1)
    low = m < math.sqrt(0.5)
    m = torch.where(low, m + m, m).double()
    s = (m - 1) / (m + 1)
    z = s * s
    p = torch.full_like(z, 1 / 13)
    for k in (11, 9, 7, 5, 3, 1):
        p.mul_(z).add_(1 / k)
    return ((n - low.int()).double() * LN2 + 2 * s * p).float()


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of fp32 tensors with the product exact, rounded to fp32."""
    return (a.double() * b.double() + c).float()


def total(x: Tensor) -> Tensor:
    """Sum over the last dimension in ascending order, in fp64; [..., n] -> fp32 [...]."""
    return x.cumsum(-1, dtype=torch.float64)[..., -1].float()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread. With more, MKL cuts a product by their number, and at odd shapes (16 x 100 x 333 on four
    threads) the bits of a row then depend on its place in the block."""
    with THREAD_SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def tanh(x: Tensor) -> Tensor:
    """Of fp32 `x` of any shape, from exp in fp64: 1 - 2 / (e^2x + 1) loses what fp64 has to spare; below 1e-3 x - x^3 / 3."""
    wide = x.double()
    power = exp_wide((wide + wide).clamp(-40.0, 40.0))
    return torch.where(x.abs() < 1e-3, wide - wide * wide * wide / 3, 1 - 2 / (power + 1)).float()


def erf_tail(t: Tensor) -> Tensor:
    """erfc(t) / 2 of fp64 `t` >= 0: exp(-t^2) times the polynomial of docs/numerics.md, `gelu`; relative error 7e-9."""
    s = 1 / (1 + 0.35 * t)
    p = torch.full_like(s, ERF_TAIL[-1])
    for c in reversed(ERF_TAIL[:-1]):
        p.mul_(s).add_(c)
    return exp_wide((-t * t).clamp(-200.0, 0.0)) * p * s


def gelu_of(x: Tensor) -> Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))) of fp32 `x`."""
    wide = x.double()
    tail = wide * erf_tail(wide.abs() * math.sqrt(0.5))
    return torch.where(wide < 0, tail, wide - tail).float()


def gelu_tanh_of(x: Tensor) -> Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) of fp32 `x` (Hendrycks and Gimpel 2016)."""
    wide = x.double()
    w = math.sqrt(8 / math.pi) * (wide + 0.044715 * wide * wide * wide)
    return (wide / (1 + exp_wide((-w).clamp(-200.0, 200.0)))).float()


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)) of fp32 `x` of any shape."""
    return 1 / (1 + exp(-x))


def softmax(x: Tensor) -> Tensor:
    """exp(x - max) / sum of x [rows, n]."""
    e = exp(x - x.amax(-1, keepdim=True))
    return e / total(e)[:, None]
