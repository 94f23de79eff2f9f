// Owns: the AVX-512 intrinsics that the kernels use, for a machine (or a compiler flag) without AVX-512: SIMDe's where it has them, the
// rest here, from their definition in Intel's intrinsics guide. Put in front of isa.cpp by emulate_avx512.sh; no source includes it.
#pragma once
#include <cstdint>
#include <cstring>
#include <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

namespace emulated {

// Every lane of `x`, an In, as an Out: C++ converts, that is widens, truncates or rounds to nearest.
template <class In, class Out, class To, class From>
static inline To each(const From& x) {
    constexpr int n = sizeof(To) / sizeof(Out);
    In in[n];
    Out out[n];
    static_assert(sizeof in == sizeof x, "as many lanes before as after");
    std::memcpy(in, &x, sizeof in);
    for (int i = 0; i < n; ++i) out[i] = static_cast<Out>(in[i]);
    To to;
    std::memcpy(&to, out, sizeof out);
    return to;
}
static inline __m512 cvtph_ps(__m256i x) {
    const __m256 halves[2] = {_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1))};
    __m512 to;
    std::memcpy(&to, halves, sizeof to);
    return to;
}
static inline __m512i srai_epi32(__m512i x, int count) {
    int32_t lanes[16];
    std::memcpy(lanes, &x, sizeof lanes);
    for (int32_t& lane : lanes) lane >>= count;
    std::memcpy(&x, lanes, sizeof lanes);
    return x;
}
static inline int32_t reduce_add_epi32(__m512i x) {
    uint32_t lanes[16], total = 0;
    std::memcpy(lanes, &x, sizeof lanes);
    for (uint32_t lane : lanes) total += lane;
    return static_cast<int32_t>(total);
}
static inline __m512 maskz_loadu_ps(__mmask16 mask, const float* from) {  // reads no lane whose bit is 0
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = mask >> i & 1 ? from[i] : 0.f;
    __m512 to;
    std::memcpy(&to, lanes, sizeof to);
    return to;
}
static inline void mask_storeu_ps(float* to, __mmask16 mask, __m512 x) {
    float lanes[16];
    std::memcpy(lanes, &x, sizeof lanes);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) to[i] = lanes[i];
}
static inline __m256 extractf32x8_ps(__m512 x, int half) {
    __m256 halves[2];
    std::memcpy(halves, &x, sizeof halves);
    return halves[half];
}
static inline __m512 shuffle_f32x4(__m512 x, __m512 y, int from) {  // two bits of `from` per quarter: two of x, then two of y
    __m128 a[4], b[4];
    std::memcpy(a, &x, sizeof a);
    std::memcpy(b, &y, sizeof b);
    const __m128 quarters[4] = {a[from & 3], a[from >> 2 & 3], b[from >> 4 & 3], b[from >> 6 & 3]};
    std::memcpy(&x, quarters, sizeof x);
    return x;
}

}  // namespace emulated

#define _mm512_cvtepi32_ps(x) (emulated::each<int32_t, float, __m512>(x))
#define _mm512_cvtepu32_ps(x) (emulated::each<uint32_t, float, __m512>(x))
#define _mm512_cvtepu16_epi32(x) (emulated::each<uint16_t, int32_t, __m512i>(x))
#define _mm512_cvtepu8_epi32(x) (emulated::each<uint8_t, int32_t, __m512i>(x))
#define _mm512_cvtepi8_epi32(x) (emulated::each<int8_t, int32_t, __m512i>(x))
#define _mm512_cvtepi32_epi8(x) (emulated::each<int32_t, int8_t, __m128i>(x))
#define _mm512_cvtepi32_epi16(x) (emulated::each<int32_t, int16_t, __m256i>(x))
#define _mm512_cvtph_ps emulated::cvtph_ps
#define _mm512_srai_epi32 emulated::srai_epi32
#define _mm512_reduce_add_epi32 emulated::reduce_add_epi32
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#define _mm512_shuffle_f32x4 emulated::shuffle_f32x4
