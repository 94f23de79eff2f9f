// Owns: exact products of R int8 rows (each 32 inputs, one after the other) with H halves, of 16 outputs each, of a packed block, in the
// three instruction sets, added to out[R * H], a row after the other; and the small conversions that packed weights need. Weights are read
// in the order in which they lie. Sets that multiply unsigned weights leave `OFFSET` times the sum of the row to be taken off.
#pragma once
#include "half.h"
#include "kernels.h"
#include "vec.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 AHEAD = 6;                    // blocks between what is read and what is fetched
constexpr i64 WORDS = PANEL * 4;            // bytes from one word of an output to its next
constexpr i64 HALF = LANES * 4;             // and from a half's words to the other's
constexpr i64 MANY = BLOCK / 4;             // words of a block

static inline int32_t word(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return four;
}

static inline void prefetch_block(const uint8_t* at, i64 bytes) {
    for (i64 i = 0; i < bytes; i += 64) __builtin_prefetch(at + i);
}

#if defined(SLIP_AVX512)
constexpr int INT_ROWS = 8, BYTE_OFFSET = 128;
constexpr bool EARLY = true;  // what is to be taken off is where sums begin
static inline void settle() {}
static inline Int dot4(Int acc, __m512i weight, const int8_t* x) { return {_mm512_dpbusd_epi32(acc.v, weight, _mm512_set1_epi32(word(x)))}; }
// q: words of unsigned bytes w + 128.
template <int R, int H>
static inline void dots_u8(const uint8_t* q, const int8_t* x, Int* out) {
#pragma GCC unroll 8
    for (int g = 0; g < MANY; ++g)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) {
            const __m512i w = _mm512_loadu_si512(q + g * WORDS + h * HALF);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) out[r * H + h] = dot4(out[r * H + h], w, x + r * BLOCK + 4 * g);
        }
}
// Of half `part` of the block, set to `out`, nothing left to be taken off. `sum` holds what is taken off a row's block and second half.
template <int R>
static inline void half_dots(const uint8_t* q, const int8_t* x, const int32_t* sum, int part, Int* out) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        out[r] = seti(part ? sum[2 * r + 1] : sum[2 * r] - sum[2 * r + 1]);
#pragma GCC unroll 4
        for (int g = part * MANY / 2; g < (part + 1) * MANY / 2; ++g)
            out[r] = dot4(out[r], _mm512_loadu_si512(q + g * WORDS), x + r * BLOCK + 4 * g);
    }
}
// q: words of nibbles.
template <int R, int H>
static inline void dots_u4(const uint8_t* q, const int8_t* x, Int* out) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i w[H][MANY];
#pragma GCC unroll 4
    for (int j = 0; j < MANY / 2; ++j)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) {
            const __m512i both = _mm512_loadu_si512(q + j * WORDS + h * HALF);
            w[h][j] = _mm512_and_si512(both, mask);
            w[h][j + MANY / 2] = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
        }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h)
#pragma GCC unroll 8
            for (int g = 0; g < MANY; ++g) out[r * H + h] = dot4(out[r * H + h], w[h][g], x + r * BLOCK + 4 * g);
}
static inline Vec load_half(const uint8_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))}; }
static inline Int widen_bytes(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
static inline Int widen_signed(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))}; }
static inline void narrow_bytes(int8_t* p, Int a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v)); }
static inline Int product(Int a, Int b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
static inline int32_t sum_lanes(Int a) { return _mm512_reduce_add_epi32(a.v); }

#elif defined(SLIP_AVX2)
constexpr int INT_ROWS = 4, BYTE_OFFSET = 0;
constexpr bool EARLY = false;
static inline void settle() { asm volatile("" ::: "memory"); }  // sums stay in memory: the registers are needed for products
static inline __m256i bytes32(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
static inline Int pairs(__m256i a, __m256i b) {  // 16-bit pair sums to 32 bits
    const __m256i ones = _mm256_set1_epi16(1);
    return {_mm256_madd_epi16(a, ones), _mm256_madd_epi16(b, ones)};
}
// acc += w * four, |w| = size. Left to itself the compiler keeps sums in memory.
static inline void add_signed(__m256i& acc, __m256i w, __m256i size, __m256i four, __m256i ones) {
    __m256i t;
    asm volatile("vpsignb %2, %4, %1\n\tvpmaddubsw %1, %3, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
                 : "+x"(acc), "=&x"(t) : "x"(w), "x"(size), "x"(four), "x"(ones));
}
// |w| <= 128 and |x| <= 127: a sum of two products fits 16 bits, a sum of four may not.
template <int R, int H>
static inline void signed_dots(const uint8_t* q, const int8_t* x, int from, int to, Int* out) {
    const __m256i flip = _mm256_set1_epi8(static_cast<char>(0x80)), ones = _mm256_set1_epi16(1);
    for (int g = from; g < to; ++g)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) {
            const uint8_t* at = q + g * WORDS + h * HALF;
            const __m256i a = _mm256_xor_si256(bytes32(at), flip), b = _mm256_xor_si256(bytes32(at + 32), flip);
            const __m256i size_a = _mm256_abs_epi8(a), size_b = _mm256_abs_epi8(b);
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const __m256i four = _mm256_set1_epi32(word(x + r * BLOCK + 4 * g));
                add_signed(out[r * H + h].a, a, size_a, four, ones);
                add_signed(out[r * H + h].b, b, size_b, four, ones);
            }
        }
}
template <int R, int H>
static inline void dots_u8(const uint8_t* q, const int8_t* x, Int* out) {
    signed_dots<R, H>(q, x, 0, MANY, out);
}
template <int R>
static inline void half_dots(const uint8_t* q, const int8_t* x, const int32_t*, int part, Int* out) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) out[r] = seti(0);
    signed_dots<R, 1>(q, x, part * MANY / 2, (part + 1) * MANY / 2, out);
}
// acc += w * four, 16 bits wide. The compiler must not gather all products before it adds them: they would not fit its registers.
static inline void add_pairs(__m256i& acc, __m256i w, __m256i four) {
    __m256i product;
    asm volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(acc), "=&x"(product) : "x"(w), "x"(four));
}
// w <= 15: eight sums of two products fit 16 bits (8 * 2 * 15 * 127 < 2^15).
template <int R, int H>
static inline void dots_u4(const uint8_t* q, const int8_t* x, Int* out) {
    constexpr int C = H == 1 ? 2 : 1;  // registers of weights unpacked at a time, so that what all rows need of them and the sums fit
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i acc[R][2 * H];
#pragma GCC unroll 4
    for (int j = 0; j < MANY / 2; ++j)
#pragma GCC unroll 4
        for (int first = 0; first < 2 * H; first += C) {
            __m256i low[C], high[C];
#pragma GCC unroll 2
            for (int c = 0; c < C; ++c) {
                const __m256i both = bytes32(q + j * WORDS + (first + c) * 32);
                low[c] = _mm256_and_si256(both, mask);
                high[c] = _mm256_and_si256(_mm256_srli_epi16(both, 4), mask);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const __m256i four = _mm256_set1_epi32(word(x + r * BLOCK + 4 * j));
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) {
                    if (j == 0) acc[r][first + c] = _mm256_maddubs_epi16(low[c], four);
                    else add_pairs(acc[r][first + c], low[c], four);
                }
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const __m256i four = _mm256_set1_epi32(word(x + r * BLOCK + BLOCK / 2 + 4 * j));
#pragma GCC unroll 2
                for (int c = 0; c < C; ++c) add_pairs(acc[r][first + c], high[c], four);
            }
        }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int h = 0; h < H; ++h) out[r * H + h] = add(out[r * H + h], pairs(acc[r][2 * h], acc[r][2 * h + 1]));
}
static inline Vec load_half(const uint8_t* p) {
    const __m128i* h = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(h)), _mm256_cvtph_ps(_mm_loadu_si128(h + 1))};
}
static inline __m128i bytes16(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
static inline Int widen_bytes(const uint8_t* p) { return {_mm256_cvtepu8_epi32(bytes16(p)), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes16(p), 8))}; }
static inline Int widen_signed(const uint8_t* p) { return {_mm256_cvtepi8_epi32(bytes16(p)), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes16(p), 8))}; }
static inline void narrow_bytes(int8_t* p, Int a) {  // lanes hold -128..127
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.a, a.b), 0xD8);
    const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(words, words), 0xD8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(bytes));
}
static inline Int product(Int a, Int b) { return {_mm256_mullo_epi32(a.a, b.a), _mm256_mullo_epi32(a.b, b.b)}; }
static inline int32_t sum_lanes(Int a) {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(a.a, a.b));
    int32_t total = 0;
    for (int i = 0; i < 8; ++i) total += lanes[i];
    return total;
}

#else
constexpr int INT_ROWS = 4, BYTE_OFFSET = 0;
constexpr bool EARLY = false;
static inline void settle() {}
template <int R, int H>
static inline void dots_words(const uint8_t* q, const int8_t* x, int words, int shift, int mask, int zero, Int* out) {
    for (int r = 0; r < R; ++r)
        for (int l = 0; l < LANES * H; ++l)
            for (int g = 0; g < words; ++g)
                for (int i = 0; i < 4; ++i)
                    out[r * H + l / LANES].v[l % LANES] += ((q[g * WORDS + 4 * l + i] >> shift & mask) - zero) * x[r * BLOCK + 4 * g + i];
}
template <int R>
static inline void half_dots(const uint8_t* q, const int8_t* x, const int32_t*, int part, Int* out) {
    for (int r = 0; r < R; ++r) out[r] = seti(0);
    dots_words<R, 1>(q + part * MANY / 2 * WORDS, x + part * BLOCK / 2, MANY / 2, 0, 255, 128, out);
}
template <int R, int H>
static inline void dots_u8(const uint8_t* q, const int8_t* x, Int* out) {
    dots_words<R, H>(q, x, MANY, 0, 255, 128, out);
}
template <int R, int H>
static inline void dots_u4(const uint8_t* q, const int8_t* x, Int* out) {
    dots_words<R, H>(q, x, MANY / 2, 0, 15, 0, out);
    dots_words<R, H>(q, x + BLOCK / 2, MANY / 2, 4, 15, 0, out);
}
static inline Vec load_half(const uint8_t* p) {
    float lanes[LANES];
    for (int l = 0; l < LANES; ++l) {
        uint16_t h;
        std::memcpy(&h, p + 2 * l, 2);
        lanes[l] = of_half(h);
    }
    return load(lanes);
}
static inline Int widen_bytes(const uint8_t* p) {
    Int out;
    for (int l = 0; l < LANES; ++l) out.v[l] = p[l];
    return out;
}
static inline Int widen_signed(const uint8_t* p) {
    Int out;
    for (int l = 0; l < LANES; ++l) out.v[l] = static_cast<int8_t>(p[l]);
    return out;
}
static inline void narrow_bytes(int8_t* p, Int a) {
    for (int l = 0; l < LANES; ++l) p[l] = static_cast<int8_t>(a.v[l]);
}
static inline Int product(Int a, Int b) {
    for (int l = 0; l < LANES; ++l) a.v[l] *= b.v[l];
    return a;
}
static inline int32_t sum_lanes(Int a) {
    int32_t total = 0;
    for (int l = 0; l < LANES; ++l) total += a.v[l];
    return total;
}
#endif

// Numbers of size up to 127 s as whole numbers of s, ties to even; 0 where s is 0, -127 for what is not a number.
static inline Int quantised(Vec v, float s) {
    const Vec shift = set1(12582912.f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
    const Vec ratio = s > 0.f ? div(v, set1(s)) : zero();
    const Vec held = min(max(ratio, set1(-127.f)), set1(127.f));
    return sub(as_int(add(held, shift)), as_int(shift));
}
static inline Vec size_of(Vec v) { return as_float(bit_and(as_int(v), seti(0x7fffffff))); }

static inline Vec load(const int8_t* p) { return to_float(widen_signed(reinterpret_cast<const uint8_t*>(p))); }
static inline Vec load_up_to(const int8_t* p, int64_t n) {
    if (n >= LANES) return load(p);
    int8_t lanes[LANES] = {};
    std::memcpy(lanes, p, n);
    return load(lanes);
}

}  // namespace SLIP_ISA
}  // namespace slip
