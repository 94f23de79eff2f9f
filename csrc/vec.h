// Owns: Vec and Int, sixteen fp32 / 32-bit lanes, in the three instruction sets; each op does the same to every lane.
// Must not know: models, threads, Python. Included only by files that are compiled once per instruction set.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(SLIP_AVX512) || defined(SLIP_AVX2)
#include <immintrin.h>
#endif

namespace slip {
namespace SLIP_ISA {

constexpr int LANES = 16;

#if defined(SLIP_AVX512)

struct Vec {
    __m512 v;
};
struct Int {
    __m512i v;
};
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where either is NaN
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
static inline Vec where_equal(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ), no.v, yes.v)};
}
static inline uint32_t equal_bits(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
static inline uint32_t less_bits(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }

static inline Int load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void store(int32_t* p, Int a) { _mm512_storeu_si512(p, a.v); }
static inline Int seti(int32_t x) { return {_mm512_set1_epi32(x)}; }
static inline Int add(Int a, Int b) { return {_mm512_add_epi32(a.v, b.v)}; }
static inline Int sub(Int a, Int b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline Int bit_and(Int a, Int b) { return {_mm512_and_si512(a.v, b.v)}; }
static inline Int bit_xor(Int a, Int b) { return {_mm512_xor_si512(a.v, b.v)}; }
static inline bool any_zero(Int a) { return _mm512_cmpeq_epi32_mask(a.v, _mm512_setzero_si512()) != 0; }
template <int N>
static inline Int shift_left(Int a) {
    return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
static inline Int shift_right(Int a) {
    return {_mm512_srai_epi32(a.v, N)};
}  // arithmetic
static inline Vec to_float(Int a) { return {_mm512_cvtepi32_ps(a.v)}; }
static inline Vec unsigned_to_float(Int a) { return {_mm512_cvtepu32_ps(a.v)}; }
static inline Vec as_float(Int a) { return {_mm512_castsi512_ps(a.v)}; }
static inline Int as_int(Vec a) { return {_mm512_castps_si512(a.v)}; }
static inline Int widen_words(const uint16_t* p) {
    return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline void narrow_words(uint16_t* p, Int a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v)); }
static inline void wide_product(Int a, uint32_t b, Int& high, Int& low) {  // 32 x 32 -> 64 bits per lane, unsigned
    const __m512i factor = _mm512_set1_epi32(static_cast<int32_t>(b));
    const __m512i even = _mm512_mul_epu32(a.v, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), factor);
    high = {_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd)};
    low = {_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32))};
}
static inline float sum8(__m256 a) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
static inline float sum(Vec a) {  // the fixed tree 16 -> 8 -> 4 -> 2 -> 1 of docs/numerics.md
    return sum8(_mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1)));
}
// The sums of 16 Vecs, in order: the same tree for all of them at once, 15 additions in place of 64.
static inline Vec sums(const Vec* x) {
    __m512 w[8], u[4], t[2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {  // result lane 4 b + c is fed from Vec 4 c + b
        const __m512 a = x[(2 * i % 4) * 4 + i / 2].v, b = x[(2 * i % 4 + 1) * 4 + i / 2].v;
        w[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i)
        u[i] = _mm512_add_ps(_mm512_shuffle_f32x4(w[2 * i], w[2 * i + 1], 0x88), _mm512_shuffle_f32x4(w[2 * i], w[2 * i + 1], 0xDD));
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
        t[i] = _mm512_add_ps(_mm512_shuffle_ps(u[2 * i], u[2 * i + 1], 0x44), _mm512_shuffle_ps(u[2 * i], u[2 * i + 1], 0xEE));
    return {_mm512_add_ps(_mm512_shuffle_ps(t[0], t[1], 0x88), _mm512_shuffle_ps(t[0], t[1], 0xDD))};
}
static inline Vec load_part(const float* p, int n) { return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p)}; }
static inline void store_part(float* p, Vec a, int n) { _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), a.v); }

#elif defined(SLIP_AVX2)

struct Vec {
    __m256 a, b;
};
struct Int {
    __m256i a, b;
};
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, Vec x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
static inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
static inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline Vec where_less(Vec x, Vec y, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
static inline Vec where_equal(Vec x, Vec y, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ))};
}
static inline uint32_t equal_bits(Vec x, Vec y) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ)) | _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)) << 8;
}
static inline uint32_t less_bits(Vec x, Vec y) {
    return _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)) | _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)) << 8;
}

static inline Int load(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
static inline void store(int32_t* p, Int x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
static inline Int seti(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
static inline Int add(Int x, Int y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
static inline Int sub(Int x, Int y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
static inline Int bit_and(Int x, Int y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
static inline Int bit_xor(Int x, Int y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
static inline bool any_zero(Int x) {
    const __m256i nothing = _mm256_setzero_si256();
    return _mm256_movemask_epi8(_mm256_or_si256(_mm256_cmpeq_epi32(x.a, nothing), _mm256_cmpeq_epi32(x.b, nothing))) != 0;
}
template <int N>
static inline Int shift_left(Int x) {
    return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)};
}
template <int N>
static inline Int shift_right(Int x) {
    return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)};
}
static inline Vec to_float(Int x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
static inline __m256 unsigned8(__m256i x) {  // both halves convert exactly; the one addition rounds
    const __m256 high = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(x, 16)), _mm256_set1_ps(65536.f));
    return _mm256_add_ps(high, _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff))));
}
static inline Vec unsigned_to_float(Int x) { return {unsigned8(x.a), unsigned8(x.b)}; }
static inline Vec as_float(Int x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
static inline Int as_int(Vec x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
static inline Int widen_words(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1))};
}
static inline void narrow_words(uint16_t* p, Int x) {  // lanes hold 0..65535
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xD8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
static inline void product8(__m256i a, __m256i factor, __m256i& high, __m256i& low) {
    const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
    high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}
static inline void wide_product(Int x, uint32_t y, Int& high, Int& low) {
    const __m256i factor = _mm256_set1_epi32(static_cast<int32_t>(y));
    product8(x.a, factor, high.a, low.a);
    product8(x.b, factor, high.b, low.b);
}
static inline float sum(Vec x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#else  // portable

struct Vec {
    float v[16];
};
struct Int {
    int32_t v[16];
};
#define SLIP_LANES(R, expression)                       \
    R r;                                                \
    for (int l = 0; l < 16; ++l) r.v[l] = (expression); \
    return r
static inline Vec load(const float* p) { SLIP_LANES(Vec, p[l]); }
static inline void store(float* p, Vec a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Vec set1(float x) { SLIP_LANES(Vec, x); }
static inline Vec add(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] + b.v[l]); }
static inline Vec sub(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] - b.v[l]); }
static inline Vec mul(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] * b.v[l]); }
static inline Vec div(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] / b.v[l]); }
static inline Vec fma(Vec a, Vec b, Vec c) { SLIP_LANES(Vec, std::fma(a.v[l], b.v[l], c.v[l])); }
static inline Vec max(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] > b.v[l] ? a.v[l] : b.v[l]); }
static inline Vec min(Vec a, Vec b) { SLIP_LANES(Vec, a.v[l] < b.v[l] ? a.v[l] : b.v[l]); }
static inline Vec where_less(Vec a, Vec b, Vec yes, Vec no) { SLIP_LANES(Vec, a.v[l] < b.v[l] ? yes.v[l] : no.v[l]); }
static inline Vec where_equal(Vec a, Vec b, Vec yes, Vec no) { SLIP_LANES(Vec, a.v[l] == b.v[l] ? yes.v[l] : no.v[l]); }
static inline uint32_t equal_bits(Vec a, Vec b) {
    uint32_t bits = 0;
    for (int l = 0; l < 16; ++l) bits |= static_cast<uint32_t>(a.v[l] == b.v[l]) << l;
    return bits;
}
static inline uint32_t less_bits(Vec a, Vec b) {
    uint32_t bits = 0;
    for (int l = 0; l < 16; ++l) bits |= static_cast<uint32_t>(a.v[l] < b.v[l]) << l;
    return bits;
}
static inline uint32_t word(int32_t x) { return static_cast<uint32_t>(x); }
static inline Int load(const int32_t* p) { SLIP_LANES(Int, p[l]); }
static inline void store(int32_t* p, Int a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Int seti(int32_t x) { SLIP_LANES(Int, x); }
static inline Int add(Int a, Int b) { SLIP_LANES(Int, static_cast<int32_t>(word(a.v[l]) + word(b.v[l]))); }
static inline Int sub(Int a, Int b) { SLIP_LANES(Int, static_cast<int32_t>(word(a.v[l]) - word(b.v[l]))); }
static inline Int bit_and(Int a, Int b) { SLIP_LANES(Int, a.v[l] & b.v[l]); }
static inline Int bit_xor(Int a, Int b) { SLIP_LANES(Int, a.v[l] ^ b.v[l]); }
static inline bool any_zero(Int a) {
    bool any = false;
    for (int l = 0; l < 16; ++l) any |= a.v[l] == 0;
    return any;
}
template <int N>
static inline Int shift_left(Int a) {
    SLIP_LANES(Int, static_cast<int32_t>(word(a.v[l]) << N));
}
template <int N>
static inline Int shift_right(Int a) {
    SLIP_LANES(Int, a.v[l] >> N);
}
static inline Vec to_float(Int a) { SLIP_LANES(Vec, static_cast<float>(a.v[l])); }
static inline Vec unsigned_to_float(Int a) { SLIP_LANES(Vec, static_cast<float>(word(a.v[l]))); }
static inline Vec as_float(Int a) {
    Vec r;
    std::memcpy(r.v, a.v, sizeof r.v);
    return r;
}
static inline Int as_int(Vec a) {
    Int r;
    std::memcpy(r.v, a.v, sizeof r.v);
    return r;
}
static inline Int widen_words(const uint16_t* p) { SLIP_LANES(Int, p[l]); }
static inline void narrow_words(uint16_t* p, Int a) {
    for (int l = 0; l < 16; ++l) p[l] = static_cast<uint16_t>(a.v[l]);
}
static inline void wide_product(Int a, uint32_t b, Int& high, Int& low) {
    for (int l = 0; l < 16; ++l) {
        const uint64_t product = static_cast<uint64_t>(word(a.v[l])) * b;
        high.v[l] = static_cast<int32_t>(product >> 32);
        low.v[l] = static_cast<int32_t>(product);
    }
}
static inline float sum(Vec a) {
    for (int half = 8; half; half /= 2)
        for (int l = 0; l < half; ++l) a.v[l] = a.v[l] + a.v[l + half];
    return a.v[0];
}
#undef SLIP_LANES

#endif

#if !defined(SLIP_AVX512)
static inline Vec load_part(const float* p, int n) {  // missing lanes are 0
    float lanes[LANES] = {};
    std::memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
static inline void store_part(float* p, Vec a, int n) {
    float lanes[LANES];
    store(lanes, a);
    std::memcpy(p, lanes, n * sizeof(float));
}
#endif

#if defined(SLIP_AVX2)
static inline __m256 sums8(const Vec* x) {  // of 8 Vecs, in order: the same tree for all of them at once
    __m256 w[4], u[2];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // the 128-bit halves of w[i]: Vecs i and i + 4
        const __m256 a = _mm256_add_ps(x[i].a, x[i].b), b = _mm256_add_ps(x[i + 4].a, x[i + 4].b);
        w[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i)
        u[i] = _mm256_add_ps(_mm256_shuffle_ps(w[2 * i], w[2 * i + 1], 0x44), _mm256_shuffle_ps(w[2 * i], w[2 * i + 1], 0xEE));
    return _mm256_add_ps(_mm256_shuffle_ps(u[0], u[1], 0x88), _mm256_shuffle_ps(u[0], u[1], 0xDD));
}
static inline Vec sums(const Vec* x) { return {sums8(x), sums8(x + 8)}; }
#elif !defined(SLIP_AVX512)
static inline Vec sums(const Vec* x) {
    float lanes[LANES];
    for (int i = 0; i < LANES; ++i) lanes[i] = sum(x[i]);
    return load(lanes);
}
#endif
static inline Vec zero() { return set1(0.f); }
static inline Vec load_up_to(const float* p, int64_t n) { return n >= LANES ? load(p) : load_part(p, static_cast<int>(n)); }
static inline void store_up_to(float* p, Vec a, int64_t n) { n >= LANES ? store(p, a) : store_part(p, a, static_cast<int>(n)); }

static inline float biggest(Vec a) {
    float lanes[LANES];
    store(lanes, a);
    float m = lanes[0];
    for (int l = 1; l < LANES; ++l) m = lanes[l] > m ? lanes[l] : m;
    return m;
}

// bf16 is the upper half of an fp32.
static inline Vec load(const uint16_t* p) { return as_float(shift_left<16>(widen_words(p))); }
static inline Vec load_up_to(const uint16_t* p, int64_t n) {
    if (n >= LANES) return load(p);
    uint16_t lanes[LANES] = {};
    std::memcpy(lanes, p, n * sizeof(uint16_t));
    return load(lanes);
}
static inline Int round_bf16(Vec a) {  // to nearest even; a NaN keeps its upper bits and stays one
    const Int bits = as_int(a), odd = bit_and(shift_right<16>(bits), seti(1));
    const Int rounded = add(bits, add(seti(0x7fff), odd));
    const Int quiet = add(bit_and(bits, seti(static_cast<int32_t>(0xffbf0000))), seti(0x400000));
    const Vec kept = where_equal(a, a, as_float(rounded), as_float(quiet));
    return bit_and(shift_right<16>(as_int(kept)), seti(0xffff));
}
static inline void store_up_to(uint16_t* p, Vec a, int64_t n) {
    if (n >= LANES) return narrow_words(p, round_bf16(a));
    uint16_t lanes[LANES];
    narrow_words(lanes, round_bf16(a));
    std::memcpy(p, lanes, n * sizeof(uint16_t));
}

}  // namespace SLIP_ISA
}  // namespace slip
