"""Functions that several kernels compute with: exp and log to half an ulp, logits made finite, Philox; tanh, gelu and their kin.

Owns their arithmetic. That of exp, log and the noise is ops/reference's operation by operation (fp64 inside, nothing fused), so that
noise and masses have the reference's bits: the hardware's own logarithm is too coarse near 1, where the winners of a draw come from.
Activations are in fp32 by the hardware's exponential, as `gated` always was.
"""

import math

import triton
import triton.language as tl

from slipstream.ops.reference.arithmetic import ERF_TAIL

LARGEST = tl.constexpr(3.4028234663852886e38)
_LOG2E, _LN2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))
_ROUND = tl.constexpr(1.5 * 2.0**52)  # added and taken away, leaves a whole number, rounded to nearest even
_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)  # of fp32 sqrt(1/2)
_EXP_TERMS = tl.constexpr(tuple(1 / math.factorial(k) for k in range(7, -1, -1)))
_EXP_FIRST = tl.constexpr(1 / math.factorial(8))
_LOG_TERMS = tl.constexpr(tuple(1 / k for k in (11, 9, 7, 5, 3, 1)))
_ERF_TERMS = tl.constexpr(tuple(reversed(ERF_TAIL)))
_ERF_DEGREE = tl.constexpr(len(ERF_TAIL) - 1)
_SQRT_HALF = tl.constexpr(math.sqrt(0.5))


@triton.jit
def exp(x):
    """e^x of fp32 numbers; 0 below -87.3."""
    wide = tl.minimum(tl.maximum(x.to(tl.float64), -200.0), 200.0)
    n = (wide * _LOG2E + _ROUND) - _ROUND
    r = wide - n * _LN2
    p = tl.full(x.shape, _EXP_FIRST, tl.float64)
    for k in tl.static_range(8):
        p = p * r + _EXP_TERMS[k]
    power = ((n.to(tl.int64) + 1023) << 52).to(tl.float64, bitcast=True)  # 2^n
    return tl.where(x < -87.3, 0.0, (p * power).to(tl.float32))


@triton.jit
def log(x):
    """Natural logarithm of positive normal fp32 numbers: 2 artanh((m - 1) / (m + 1)) + n ln 2, m in [sqrt(1/2), sqrt(2))."""
    bits = x.to(tl.int32, bitcast=True)
    n = (bits - _SQRT_HALF_BITS) >> 23
    m = (bits - (n << 23)).to(tl.float32, bitcast=True).to(tl.float64)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = tl.full(x.shape, 1 / 13, tl.float64)
    for k in tl.static_range(6):
        p = p * z + _LOG_TERMS[k]
    return (n.to(tl.float64) * _LN2 + (2.0 * s) * p).to(tl.float32)


@triton.jit
def finite_above(x):
    """NaN as -inf, +inf as the largest number, -0 as 0, so that the order of bits is the order of numbers."""
    x = tl.where(x != x, float("-inf"), tl.minimum(x, LARGEST))
    return tl.where(x == 0.0, 0.0, x)


@triton.jit
def gumbel(word):
    """Standard Gumbel noise of random words (uint32): -log of an exponential, whose uniform is never 0 or 1."""
    v = tl.minimum((word.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.999999940395355224609375)
    w = 1.0 - v
    exponential = tl.where(w == 1.0, v, tl.div_rn(-log(w) * v, tl.where(w == 1.0, 1.0, 1.0 - w)))
    return -log(exponential)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return tl.div_rn(1.0, 1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    """Of y = abs x: below 1/4 the series to y^9, else (1 - e) / (1 + e) with e = exp(-2 y)."""
    y = tl.abs(x)
    z = y * y
    near = y + y * z * (z * (2 / 15 + z * (z * (62 / 2835) - 17 / 315)) - 1 / 3)
    e = tl.exp(-2.0 * y)
    size = tl.where(y < 0.25, near, tl.div_rn(1.0 - e, 1.0 + e))
    return tl.where(x < 0.0, -size, size)


@triton.jit
def gelu(x):
    """x / 2 * (1 + erf(x / sqrt(2))), by the polynomial of docs/numerics.md."""
    t = tl.abs(x) * _SQRT_HALF
    s = tl.div_rn(1.0, t * 0.35 + 1.0)
    p = s * _ERF_TERMS[0] + _ERF_TERMS[1]
    for k in tl.static_range(2, _ERF_DEGREE + 1):
        p = p * s + _ERF_TERMS[k]
    tail = x * (tl.exp(-(t * t)) * (s * p))
    return tl.where(x < 0.0, tail, x - tail)


@triton.jit
def gelu_tanh(x):
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))), as x / (1 + exp(-w))."""
    w = x * (x * x * 0.0713548163 + 1.59576912)
    return tl.div_rn(x, 1.0 + tl.exp(-w))


@triton.jit
def activated(x, activation: tl.constexpr):
    """One of the activations by name: "silu", "gelu" or "gelu_tanh"."""
    if activation == "silu":
        return tl.div_rn(x, 1.0 + tl.exp(-x))
    return gelu(x) if activation == "gelu" else gelu_tanh(x)


@triton.jit
def inverse_root(x):
    """1 / sqrt(x)."""
    return tl.div_rn(1.0, tl.sqrt_rn(x))


@triton.jit
def philox(k0, k1, c0, c1, c2, c3):
    """Philox-4x32-10 (Salmon et al. 2011) of uint32 key and counter words; c2 may be a block. Four blocks of words."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high2, low2 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def e4m3(values):
    """Codes of numbers [block], rounded to bf16 before, and the scale that they share: the greatest size / 448."""
    values = values.to(tl.bfloat16).to(tl.float32)
    step = tl.div_rn(tl.maximum(tl.max(tl.abs(values), axis=0), 1e-12), 448.0)  # a row of zeros must not be divided by 0
    return tl.minimum(tl.maximum(tl.div_rn(values, step), -448.0), 448.0).to(tl.float8e4nv), step
