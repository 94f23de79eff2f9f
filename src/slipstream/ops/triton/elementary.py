"""Functions that several kernels compute with: exp and log to half an ulp, logits made finite, Philox.

Owns their arithmetic, which is that of ops/reference operation by operation (fp64 inside, nothing fused), so that noise and
masses have the reference's bits. The hardware's own logarithm is too coarse near 1, where the winners of a draw come from.
"""

import math

import triton
import triton.language as tl

LARGEST = tl.constexpr(3.4028234663852886e38)
_LOG2E, _LN2 = tl.constexpr(math.log2(math.e)), tl.constexpr(math.log(2))
_ROUND = tl.constexpr(1.5 * 2.0**52)  # added and taken away, leaves a whole number, rounded to nearest even
_SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)  # of fp32 sqrt(1/2)
_EXP_TERMS = tl.constexpr(tuple(1 / math.factorial(k) for k in range(7, -1, -1)))
_EXP_FIRST = tl.constexpr(1 / math.factorial(8))
_LOG_TERMS = tl.constexpr(tuple(1 / k for k in (11, 9, 7, 5, 3, 1)))


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
def philox(k0, k1, c0, c1, c2, c3):
    """Philox-4x32-10 (Salmon et al. 2011) of uint32 key and counter words; c2 may be a block. Four blocks of words."""
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(c0, 0xD2511F53), c0 * 0xD2511F53
        high2, low2 = tl.umulhi(c2, 0xCD9E8D57), c2 * 0xCD9E8D57
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + 0x9E3779B9, k1 + 0xBB67AE85
    return c0, c1, c2, c3
