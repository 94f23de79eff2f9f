// Owns: exp, log, tanh, the activations and the lane sum of docs/numerics.md, written once over Vec. Coefficients are weighted minimax fits made for this file.
#pragma once
#include "vec.h"

namespace slip {
namespace SLIP_ISA {

static inline Vec horner(Vec x, const float* c, int n) {  // c[n-1] first
    Vec p = set1(c[n - 1]);
#pragma GCC unroll 16
    for (int i = n - 2; i >= 0; --i) p = fma(p, x, set1(c[i]));
    return p;
}

// e^x. 0 below -87.3; infinite where rint(x log2 e) is 128 or more (x > 88.37); NaN stays NaN.
static inline Vec exp(Vec x) {
    static constexpr float C[7] = {1.f, 1.f, 0.499999933f, 0.166665191f, 0.0416684058f, 0.00836889887f, 0.00138142198f};
    const Vec shift = set1(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer, ties to even
    const Vec y = where_less(set1(88.5f), x, set1(88.5f), x);
    const Vec t = add(mul(y, set1(1.44269504f)), shift);
    const Vec n = sub(t, shift);
    const Vec r = fma(n, set1(2.12194440e-4f), fma(n, set1(-0.693359375f), y));
    const Vec scale = as_float(add(shift_left<23>(as_int(t)), seti(127 << 23)));
    return where_less(x, set1(-87.3f), zero(), mul(horner(r, C, 7), scale));
}

// Natural logarithm of positive normal numbers.
static inline Vec log(Vec x) {
    static constexpr float C[9] = {0.333333126f,  -0.250000096f, 0.200021187f,  -0.166679957f, 0.142195509f,
                                   -0.124055914f, 0.118881746f,  -0.116756413f, 0.0674660132f};
    const Int bits = as_int(x), e = shift_right<23>(sub(bits, seti(0x3f3504f3)));  // mantissa in [sqrt(1/2), sqrt(2))
    const Vec f = sub(as_float(sub(bits, shift_left<23>(e))), set1(1.f)), n = to_float(e);
    const Vec z = mul(f, f);
    Vec y = mul(mul(f, z), horner(f, C, 9));
    y = fma(n, set1(-2.12194440e-4f), y);
    y = fma(set1(-0.5f), z, y);
    return fma(n, set1(0.693359375f), add(f, y));
}

// Odd; below 0.65 a polynomial, so that small numbers keep their relative precision.
static inline Vec tanh(Vec x) {
    static constexpr float C[6] = {-0.333333284f, 0.133331522f, -0.0539399423f, 0.0216634031f, -0.00808562525f, 0.00205957959f};
    const Int sign = bit_and(as_int(x), seti(static_cast<int32_t>(0x80000000)));
    const Vec y = as_float(bit_xor(as_int(x), sign)), z = mul(y, y);
    const Vec near = fma(mul(y, z), horner(z, C, 6), y);
    const Vec far = sub(set1(1.f), div(set1(2.f), add(exp(add(y, y)), set1(1.f))));
    return as_float(bit_xor(as_int(where_less(y, set1(0.65f), near, far)), sign));
}

static inline Vec silu(Vec x) { return div(x, add(set1(1.f), exp(sub(zero(), x)))); }

// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) as x / (1 + exp(-w)).
static inline Vec gelu_tanh(Vec x) {
    const Vec w = mul(x, fma(mul(x, x), set1(0.0713548163f), set1(1.59576912f)));
    return div(x, add(set1(1.f), exp(sub(zero(), w))));
}

// x / 2 * (1 + erf(x / sqrt(2))); the tail erfc(t) / 2 = exp(-t^2) * s * P(s) with s = 1 / (1 + 0.35 t), t = |x| / sqrt(2).
static inline Vec gelu(Vec x) {
    static constexpr float C[10] = {0.0987418890f, 0.0985691771f, 0.0939511806f,  0.0755931213f,  0.0730211586f,
                                    0.0435089953f, -0.0138520515f, 0.0907298103f, -0.0794636980f, 0.0192004256f};
    const Vec y = as_float(bit_and(as_int(x), seti(0x7fffffff))), t = mul(y, set1(0.707106781f));
    const Vec s = div(set1(1.f), fma(t, set1(0.35f), set1(1.f)));
    const Vec tail = mul(x, mul(exp(sub(zero(), mul(t, t))), mul(s, horner(s, C, 10))));
    return where_less(x, zero(), tail, sub(x, tail));
}

static inline float log(float x) {
    float lanes[LANES];
    store(lanes, log(set1(x)));
    return lanes[0];
}
static inline float exp(float x) {
    float lanes[LANES];
    store(lanes, exp(set1(x)));
    return lanes[0];
}

}  // namespace SLIP_ISA
}  // namespace slip
