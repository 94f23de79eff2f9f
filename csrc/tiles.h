// Owns: products of a tile of pairs with keys and with values: each score and each mixed number is one chain of FMAs in registers, and
// what will be read next is fetched between them. Must not know: segments, softmax, who sees which key.
#pragma once
#include <type_traits>

#include "keys.h"

namespace slip {
namespace SLIP_ISA {

#if defined(SLIP_AVX512)
constexpr int TILE = 12;  // pairs of a tile
constexpr int HELD = 24;  // Vecs of sums that registers hold
#elif defined(SLIP_AVX2)
constexpr int TILE = 6;
constexpr int HELD = 6;
#else
constexpr int TILE = 4;
constexpr int HELD = 4;
#endif
constexpr i64 SCORES = SEGMENT + KEYS;  // from a pair's scores to the next one's; not a power of two, for the sake of the cache's sets
constexpr i64 QUERY = MAX_HEAD + LANES;
constexpr i64 VALUES = 128;             // values that are widened at a time,
constexpr i64 COLUMNS = 2 * LANES;      // and how many numbers of them
constexpr i64 FETCH = 64;               // keys between what is read and what is fetched

// Asks for keys or values from..to-1, of `bytes` each. Bursts of more than memory gives meanwhile hold up what is read after them.
// Always inline: GCC takes a function that only fetches for one without effect and drops the calls.
[[gnu::always_inline]] static inline void fetch(const char* cache, const i64* offset, i64 from, i64 to, i64 bytes) {
    for (i64 j = from; j < to; ++j)
        for (i64 b = 0; b < bytes; b += LINE) __builtin_prefetch(cache + offset[j] + b);
}

// Scores of R pairs with B * 16 turned keys; `scale` of each key, where there is one.
template <int R, int B>
static void score(const float* q, const float* keys, const float* scale, i64 d, float* scores) {
    Vec sums[R][B];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) sums[r][b] = zero();
    for (i64 c = 0; c < d; ++c) {
        Vec key[B];
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) key[b] = load(keys + c * KEYS + b * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec x = set1(q[r * QUERY + c]);
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) sums[r][b] = fma(x, key[b], sums[r][b]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b)
            store(scores + r * SCORES + b * LANES, scale ? mul(sums[r][b], load(scale + b * LANES)) : sums[r][b]);
}

// Scores of R pairs with B * 16 keys as they lie in the cache. Calls coming(c) once per step of numbers.
template <class T, int R, int B, class Coming>
static void score_lying(const float* q, const char* const* keys, const float* scale, i64 d, float* scores, Coming coming) {
    alignas(64) int32_t words[B][TURN * LANES];
    Vec sums[R][B];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b) sums[r][b] = zero();
    for (i64 c = 0; c < d; c += TURN * PER_WORD<T>, q += TURN * PER_WORD<T>) {
        for (int b = 0; b < B; ++b) turn_words(keys + b * LANES, c * static_cast<i64>(sizeof(T)), words[b]);
        coming(c);
#pragma GCC unroll 1
        for (i64 w = 0; w < TURN; ++w) {
            Vec key[B][PER_WORD<T>];
#pragma GCC unroll 2
            for (int b = 0; b < B; ++b) widen(load(words[b] + w * LANES), key[b], T{});
#pragma GCC unroll 4
            for (i64 n = 0; n < PER_WORD<T>; ++n)
#pragma GCC unroll 16
                for (int r = 0; r < R; ++r) {
                    const Vec x = set1(q[r * QUERY + w * PER_WORD<T> + n]);
#pragma GCC unroll 2
                    for (int b = 0; b < B; ++b) sums[r][b] = fma(x, key[b][n], sums[r][b]);
                }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int b = 0; b < B; ++b)
            store(scores + r * SCORES + b * LANES, scale ? mul(sums[r][b], load(scale + b * LANES)) : sums[r][b]);
}

struct Widened {  // values from `first` on as fp32, COLUMNS apart
    const float* values;
    i64 first;
    inline Vec operator()(i64 j, int v) const { return load(values + (j - first) * COLUMNS + v * LANES); }
    Widened next() const { return {values + LANES, first}; }
    void coming(i64, int) const {}
    static Vec loose(Vec x) { return x; }
    static Vec ordered(Vec x) { return x; }
};
template <class T>
struct Cached : Loose<T> {  // values as they lie in the cache, from the first number wanted on
    const char *values, *ahead;  // `ahead`: whose numbers are read next: `count` of `bytes` each, at `fetched`
    const i64 *offset, *fetched;
    i64 first, count, bytes;
    i64 pass, passes;  // over the values from `first` on; each asks for its part
    inline Vec operator()(i64 j, int v) const { return Loose<T>::load(reinterpret_cast<const T*>(values + offset[j]) + v * LANES); }
    Cached next() const {
        Cached other = *this;
        other.values += LANES * sizeof(T);
        ++other.pass;
        return other;
    }
    [[gnu::always_inline]] inline void coming(i64 j, int v) const {
        const i64 at = pass * FETCH + (j - first) * v, last = (at + LANES * v) / passes;
        fetch(ahead, fetched, at / passes, last < count ? last : count, bytes);
    }
};

// mixed += weight * value for R pairs over values from..to-1, V * 16 numbers of each; mixed rows are `stride` apart.
template <int R, int V, class Values>
static void mix(const float* weights, const Values& values, i64 from, i64 to, float* mixed, i64 stride) {
    Vec sums[R][V];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) sums[r][v] = Values::loose(load(mixed + r * stride + v * LANES));
    while (from < to) {
        values.coming(from, V);
        for (const i64 end = to - from < LANES ? to : from + LANES; from < end; ++from) {
            Vec value[V];
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) value[v] = values(from, v);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const Vec weight = set1(weights[r * SCORES + from]);
#pragma GCC unroll 2
                for (int v = 0; v < V; ++v) sums[r][v] = fma(weight, value[v], sums[r][v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) store(mixed + r * stride + v * LANES, Values::ordered(sums[r][v]));
}

// Calls f with `count` (1..TILE) as a compile-time number.
template <int N = TILE, class F>
static inline void with_count(i64 count, F f) {
    if (count == N) f(std::integral_constant<int, N>());
    else if constexpr (N > 1) with_count<N - 1>(count, f);
}

}  // namespace SLIP_ISA
}  // namespace slip
