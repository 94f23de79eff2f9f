// Owns: the reading of cached keys and values in fp32: where those of a row lie, and keys turned so that lanes are keys.
#pragma once
#include "dots.h"
#include "kernels.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 KEYS = 2 * LANES;  // keys that are turned at a time
constexpr i64 LINE = 64;         // bytes that memory gives at a time

// Where keys from..to-1 of a row lie in the cache of one kv head, in bytes.
static void find_keys(const Attention& a, i64 row, i64 kv_head, i64 from, i64 to, i64* offset) {
    const Cache& c = a.cache;
    const i64 linear = a.linear[row], trunk = to < linear ? to : linear;
    const int32_t *pages = a.page_table + a.request[row] * a.max_pages, *tail = a.tail_slots + a.tail_start[row] - linear;
    i64 j = from;
    for (i64 page = from / c.page_size, at = from % c.page_size; j < trunk; ++page, at = 0)
        for (const i64 base = c.place(pages[page] * c.page_size, kv_head); at < c.page_size && j < trunk; ++at, ++j) offset[j - from] = base + at * c.stride;
    for (; j < to; ++j) offset[j - from] = c.place(tail[j], kv_head);
}

#if defined(SLIP_AVX2) || defined(SLIP_AVX512)
// The eight 32-bit words from `at` on of 8 keys: out[i] is word i of all of them.
static inline void turn_words(const char* const* keys, i64 at, __m256i* out) {
    const auto half = [&at](const char* low, const char* high) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(low + at));
        return _mm256_inserti128_si256(_mm256_castsi128_si256(a), _mm_loadu_si128(reinterpret_cast<const __m128i*>(high + at)), 1);
    };
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h, at += 16) {
        const __m256i a = half(keys[0], keys[4]), b = half(keys[1], keys[5]), c = half(keys[2], keys[6]), d = half(keys[3], keys[7]);
        const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
        const __m256i ab2 = _mm256_unpackhi_epi32(a, b), cd2 = _mm256_unpackhi_epi32(c, d);
        out[4 * h] = _mm256_unpacklo_epi64(ab, cd);
        out[4 * h + 1] = _mm256_unpackhi_epi64(ab, cd);
        out[4 * h + 2] = _mm256_unpacklo_epi64(ab2, cd2);
        out[4 * h + 3] = _mm256_unpackhi_epi64(ab2, cd2);
    }
}
// A word holds one number or, lowest bits first, several; each becomes a row of `out`.
static inline void widen_word(__m256i word, float* out, float) { _mm256_storeu_ps(out, _mm256_castsi256_ps(word)); }
static inline void widen_word(__m256i word, float* out, uint16_t) {
    _mm256_storeu_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(word, 16)));
    _mm256_storeu_ps(out + KEYS, _mm256_castsi256_ps(_mm256_and_si256(word, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000)))));
}
static inline void widen_word(__m256i word, float* out, int8_t) {
    _mm256_storeu_ps(out, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(word, 24), 24)));
    _mm256_storeu_ps(out + KEYS, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(word, 16), 24)));
    _mm256_storeu_ps(out + 2 * KEYS, _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(word, 8), 24)));
    _mm256_storeu_ps(out + 3 * KEYS, _mm256_cvtepi32_ps(_mm256_srai_epi32(word, 24)));
}
// out[c * KEYS + i] = number c of key i, for 8 keys of d numbers; writes whole words' numbers, so up to 8 words more than d.
template <class T>
static inline void turn(const char* const* keys, i64 d, float* out) {
    constexpr i64 STEP = 32, PER_WORD = 4 / sizeof(T), bytes = STEP;
    const i64 size = d * static_cast<i64>(sizeof(T));
    __m256i words[8];
    for (i64 at = 0; at < size; at += STEP, out += 8 * PER_WORD * KEYS) {
        if (size - at >= STEP) {
            turn_words(keys, at, words);
        } else {
            char rest[8][bytes] = {};
            const char* rests[8];
            for (int i = 0; i < 8; ++i) {
                std::memcpy(rest[i], keys[i] + at, size - at);
                rests[i] = rest[i];
            }
            turn_words(rests, 0, words);
        }
#pragma GCC unroll 8
        for (int w = 0; w < 8; ++w) widen_word(words[w], out + w * PER_WORD * KEYS, T{});
    }
}
#else
template <class T>
static inline void turn(const char* const* keys, i64 d, float* out) {
    for (i64 i = 0; i < 8; ++i)
        for (i64 c = 0; c < d; c += LANES) {
            float lanes[LANES];
            store(lanes, load_up_to(reinterpret_cast<const T*>(keys[i]) + c, d - c));
            for (i64 l = 0; l < LANES && c + l < d; ++l) out[(c + l) * KEYS + i] = lanes[l];
        }
}
#endif

// Numbers that a turned key of d of them may take up.
constexpr i64 turned(i64 d) { return (d + 31) / 32 * 32; }

// Sixteen numbers in the order in which they are widened fastest, and the way to and from their own.
template <class T>
struct Loose {
    static inline Vec load(const T* p) { return SLIP_ISA::load(p); }
    static inline Vec loose(Vec x) { return x; }
    static inline Vec ordered(Vec x) { return x; }
};
#if defined(SLIP_AVX2)
template <>
struct Loose<uint16_t> {  // the even ones, then the odd ones
    static inline Vec load(const uint16_t* p) {
        const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        const __m256i odd = _mm256_and_si256(words, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000)));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(words, 16)), _mm256_castsi256_ps(odd)};
    }
    static inline Vec loose(Vec x) {
        const auto gather = [](__m256 v) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xD8)); };
        return {gather(_mm256_shuffle_ps(x.a, x.b, 0x88)), gather(_mm256_shuffle_ps(x.a, x.b, 0xDD))};
    }
    static inline Vec ordered(Vec x) {
        const __m256 low = _mm256_unpacklo_ps(x.a, x.b), high = _mm256_unpackhi_ps(x.a, x.b);
        return {_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
    }
};
#endif

constexpr i64 TURN = 8;  // of 32 bits, that are turned at a time
template <class T>
constexpr i64 PER_WORD = 4 / sizeof(T);

// words[w * LANES + i] = word w of key i from byte `at` on, for LANES keys.
static inline void turn_words(const char* const* keys, i64 at, int32_t* words) {
#if defined(SLIP_AVX2) || defined(SLIP_AVX512)
#pragma GCC unroll 2
    for (i64 first = 0; first < LANES; first += 8) {
        __m256i out[TURN];
        turn_words(keys + first, at, out);
#pragma GCC unroll 8
        for (i64 w = 0; w < TURN; ++w) _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + w * LANES + first), out[w]);
    }
#else
    for (i64 i = 0; i < LANES; ++i)
        for (i64 w = 0; w < TURN; ++w) std::memcpy(words + w * LANES + i, keys[i] + at + 4 * w, 4);
#endif
}
// The numbers of a word of LANES keys.
static inline void widen(Int word, Vec* out, float) { out[0] = as_float(word); }
static inline void widen(Int word, Vec* out, uint16_t) {
    out[0] = as_float(shift_left<16>(word));
    out[1] = as_float(bit_and(word, seti(static_cast<int32_t>(0xffff0000))));
}
static inline void widen(Int word, Vec* out, int8_t) {
    out[0] = to_float(shift_right<24>(shift_left<24>(word)));
    out[1] = to_float(shift_right<24>(shift_left<16>(word)));
    out[2] = to_float(shift_right<24>(shift_left<8>(word)));
    out[3] = to_float(shift_right<24>(word));
}

}  // namespace SLIP_ISA
}  // namespace slip
