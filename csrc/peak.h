// Owns: the loops that show what one core can do: multiply-adds held in registers, and reading memory.
#pragma once
#include "dots.h"
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

#if defined(SLIP_AVX512)
constexpr int CHAINS = 16;
#else
constexpr int CHAINS = 5;  // of two registers each: the latency is hidden and nothing spills
#endif

static inline void keep(Vec a) { asm volatile("" : : "m"(a)); }  // a copy: what was summed up stays in registers until then

static double peak_fp32(i64 rounds) {
    Vec acc[CHAINS], x = set1(0.999f), y = set1(1e-3f);
    for (int i = 0; i < CHAINS; ++i) acc[i] = zero();
    for (i64 r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) acc[i] = fma(x, acc[i], y);
    }
    for (int i = 0; i < CHAINS; ++i) keep(acc[i]);
    return 2. * LANES * CHAINS * static_cast<double>(rounds);
}

#if defined(SLIP_AVX512)
__attribute__((target("avx512bf16"))) static double peak_bf16(i64 rounds) {
    __m512 acc[CHAINS];
    const __m512bh x = (__m512bh)_mm512_set1_epi16(0x3f80);
    for (int i = 0; i < CHAINS; ++i) acc[i] = _mm512_setzero_ps();
    for (i64 r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) acc[i] = _mm512_dpbf16_ps(acc[i], x, x);
    }
    for (int i = 0; i < CHAINS; ++i) keep({acc[i]});
    return 4. * LANES * CHAINS * static_cast<double>(rounds);
}
static double peak_int8(i64 rounds) {
    __m512i acc[CHAINS];
    const __m512i x = _mm512_set1_epi8(1);
    for (int i = 0; i < CHAINS; ++i) acc[i] = _mm512_setzero_si512();
    for (i64 r = 0; r < rounds; ++r) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) acc[i] = _mm512_dpbusd_epi32(acc[i], x, x);
    }
    for (int i = 0; i < CHAINS; ++i) keep({_mm512_castsi512_ps(acc[i])});
    return 8. * LANES * CHAINS * static_cast<double>(rounds);
}
static double peak(int kind, i64 rounds) {
    if (kind == 1 && __builtin_cpu_supports("avx512bf16")) return peak_bf16(rounds);
    return kind >= 2 ? peak_int8(rounds) : peak_fp32(rounds);
}
#else
#if defined(SLIP_AVX2)
// What an exact product of bytes takes here: sign, multiply, two additions; and of nibbles, whose sums fit 16 bits: multiply, add.
template <bool NIBBLES>
static double peak_products(i64 rounds) {
    constexpr int MOST = 8;
    __m256i acc[MOST], x = _mm256_set1_epi8(1), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int i = 0; i < MOST; ++i) acc[i] = _mm256_setzero_si256();
    for (i64 r = 0; r < rounds; ++r) {
#pragma GCC unroll 8
        for (int i = 0; i < MOST; ++i) {
            __m256i t;
            if (NIBBLES)
                asm volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc[i]), "=&x"(t) : "x"(x));
            else
                asm volatile("vpsignb %2, %2, %1\n\tvpmaddubsw %1, %2, %1\n\tvpmaddwd %3, %1, %1\n\tvpaddd %1, %0, %0"
                             : "+x"(acc[i]), "=&x"(t) : "x"(x), "x"(ones));
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MOST; ++i) asm volatile("" : "+x"(acc[i]));
    return 64. * MOST * static_cast<double>(rounds);
}
static double peak(int kind, i64 rounds) {
    return kind == 3 ? peak_products<true>(rounds) : kind == 2 ? peak_products<false>(rounds) : peak_fp32(rounds);
}
#else
static double peak_int8(i64 rounds) {  // the product that integer layers use here
    uint8_t weight[BLOCK * PANEL];
    int8_t x[BLOCK] = {1};
    std::memset(weight, 129, sizeof weight);
    Int out;
    for (i64 r = 0; r < rounds / 64; ++r) {
        asm volatile("" : : "r"(weight), "r"(x) : "memory");
        out = seti(0);
        dots_u8<1, 1>(weight, x, &out);
        keep(as_float(out));
    }
    return 2. * LANES * BLOCK * static_cast<double>(rounds / 64);
}
static double peak(int kind, i64 rounds) { return kind >= 2 ? peak_int8(rounds) : peak_fp32(rounds); }
#endif
#endif

static float read(const float* data, i64 n) {  // n: a multiple of 256
    Vec acc[4] = {zero(), zero(), zero(), zero()};
    for (i64 i = 0; i < n; i += 8 * LANES)
#pragma GCC unroll 8
        for (int v = 0; v < 8; ++v) acc[v % 4] = add(acc[v % 4], load(data + i + v * LANES));
    return sum(add(add(acc[0], acc[1]), add(acc[2], acc[3])));
}

}  // namespace SLIP_ISA
}  // namespace slip
