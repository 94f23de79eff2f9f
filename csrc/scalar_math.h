// Owns: exp, log and the lane sum of docs/numerics.md, written once over Vec. Coefficients are weighted minimax fits made for this file.
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
