// Owns: attention of one row over paged keys, in segments of 512 positions merged from left to right (docs/numerics.md, section 3).
#pragma once
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

constexpr float NOTHING = -INFINITY;
#if defined(SLIP_AVX512)
constexpr int VALUES = 4;     // Vecs of a value row that G heads sum up in registers
constexpr int CHAINS_MAX = 16;  // sums of products that are held in registers
#else
constexpr int VALUES = 1;
constexpr int CHAINS_MAX = 4;
#endif
constexpr int HEADS = 4;  // heads of a kv head that share the reading of its keys and values

// Element offsets of keys `from`..`to`-1 of a row in the cache, for one kv head.
static void find_keys(const Attention& a, i64 row, i64 kv_head, i64 from, i64 to, i64* offset) {
    const Cache& c = a.cache;
    const int32_t* pages = a.page_table + a.request[row] * a.max_pages;
    const int32_t* tail = a.tail_slots + a.tail_start[row] - a.linear[row];
    for (i64 j = from; j < to; ++j) {
        const bool trunk = j < a.linear[row];
        const i64 page = trunk ? pages[j / c.page_size] : tail[j] / c.page_size, at = trunk ? j % c.page_size : tail[j] % c.page_size;
        offset[j - from] = ((page * c.kv_heads + kv_head) * c.page_size + at) * c.head_dim;
    }
}

struct Scores {
    alignas(64) float of[HEADS][SEGMENT + LANES];
};

// Scores of G heads (q rows d apart) against 16 / G keys.
template <class T, int G>
static inline void dots(const float* q, const T* keys, const i64* offset, i64 d, i64 at, Scores& scores) {
    constexpr int KEYS = LANES / G, TOGETHER = CHAINS_MAX / G;
    Vec all[LANES];
    for (int first = 0; first < KEYS; first += TOGETHER) {
        Vec acc[G][TOGETHER];
#pragma GCC unroll 16
        for (int g = 0; g < G; ++g)
#pragma GCC unroll 16
            for (int j = 0; j < TOGETHER; ++j) acc[g][j] = zero();
        for (i64 c = 0; c < d; c += LANES) {
            Vec part[G];
#pragma GCC unroll 4
            for (int g = 0; g < G; ++g) part[g] = load_up_to(q + g * d + c, d - c);
#pragma GCC unroll 16
            for (int j = 0; j < TOGETHER; ++j) {
                const Vec key = load_up_to(keys + offset[first + j] + c, d - c);
#pragma GCC unroll 4
                for (int g = 0; g < G; ++g) acc[g][j] = fma(part[g], key, acc[g][j]);
            }
        }
#pragma GCC unroll 16
        for (int g = 0; g < G; ++g)
#pragma GCC unroll 16
            for (int j = 0; j < TOGETHER; ++j) all[g * KEYS + first + j] = acc[g][j];
    }
    float lanes[LANES];
    store(lanes, sums(all));
    for (int g = 0; g < G; ++g) std::memcpy(scores.of[g] + at, lanes + g * KEYS, KEYS * sizeof(float));
}

template <class T, int G>
static inline void weigh(const Scores& e, i64 first, const T* values, const i64* offset, i64 count, i64 d, i64 from, float* const* out) {
    Vec acc[G][VALUES];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int v = 0; v < VALUES; ++v) acc[g][v] = zero();
    for (i64 j = 0; j < count; ++j) {
        Vec value[VALUES];
#pragma GCC unroll 4
        for (int v = 0; v < VALUES; ++v)
            value[v] = from + v * LANES < d ? load_up_to(values + offset[j] + from + v * LANES, d - from - v * LANES) : zero();
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) {
            const Vec weight = set1(e.of[g][first + j]);
#pragma GCC unroll 4
            for (int v = 0; v < VALUES; ++v) acc[g][v] = fma(weight, value[v], acc[g][v]);
        }
    }
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 4
        for (int v = 0; v < VALUES; ++v)
            if (from + v * LANES < d) store_up_to(out[g] + from + v * LANES, acc[g][v], d - from - v * LANES);
}

struct Part {  // softmax state of a segment: largest score, sum of weights, weighted values
    float top, total;
    float* values;
};

static void blank(float* scores, i64 first, i64 count, i64 padded) {
    for (i64 j = 0; j < first; ++j) scores[j] = NOTHING;
    for (i64 j = first + count; j < padded; ++j) scores[j] = NOTHING;
}

// Turns a row of scores into weights relative to its largest.
static void soften(float* scores, i64 first, i64 count, float scale, float cap, Part& part) {
    const i64 padded = (first + count + LANES - 1) / LANES * LANES;
    blank(scores, first, count, padded);
    if (cap > 0) {
        for (i64 i = 0; i < padded; i += LANES)
            store(scores + i, mul(set1(cap), tanh(div(mul(load(scores + i), set1(scale)), set1(cap)))));
        blank(scores, first, count, padded);  // tanh made them finite
        scale = 1.f;
    }
    Vec best = set1(NOTHING);
    for (i64 i = 0; i < padded; i += LANES) {
        const Vec s = mul(load(scores + i), set1(scale));  // scale is positive: missing lanes stay -inf
        store(scores + i, s);
        best = max(s, best);
    }
    part.top = biggest(best);
    Vec total = zero();
    for (i64 i = 0; i < padded; i += LANES) {
        const Vec e = exp(sub(load(scores + i), set1(part.top)));
        store(scores + i, e);
        total = add(total, e);
    }
    part.total = sum(total);
}

// One segment for G heads. `first` is the lane of the first of `count` keys: its position within the segment, mod 16. `offset` is
// readable up to 15 keys further (any valid keys); what they score is overwritten.
template <class T, int G>
static void segment(const float* q, const T* keys, const T* values, const i64* offset, i64 count, i64 first, i64 d, float scale,
                    float cap, Part* parts) {
    Scores scores;
    for (i64 j = 0; j < count; j += LANES / G) dots<T, G>(q, keys, offset + j, d, first + j, scores);
    float* out[G];
    for (int g = 0; g < G; ++g) {
        soften(scores.of[g], first, count, scale, cap, parts[g]);
        out[g] = parts[g].values;
    }
    for (i64 from = 0; from < d; from += VALUES * LANES) weigh<T, G>(scores, first, values, offset, count, d, from, out);
}

static void merge(Part& all, const Part& part, i64 d) {
    const float top = part.top > all.top ? part.top : all.top;
    const float a = exp(all.top - top), b = exp(part.top - top);
    all.total = std::fma(all.total, a, part.total * b);
    for (i64 i = 0; i < d; i += LANES) {
        const Vec v = fma(load_up_to(all.values + i, d - i), set1(a), mul(load_up_to(part.values + i, d - i), set1(b)));
        store_up_to(all.values + i, v, d - i);
    }
    all.top = top;
}

// G neighbouring heads of one kv head, from `head` on.
template <class T, int G>
static void attend(const Attention& a, i64 row, i64 kv_head, i64 head) {
    const i64 d = a.cache.head_dim, end = a.positions[row] + 1, begin = a.window > 0 && end > a.window ? end - a.window : 0;
    const T *keys = static_cast<const T*>(a.cache.keys), *values = static_cast<const T*>(a.cache.values);
    const float* q = a.qkv + row * a.width + head * d;
    alignas(64) float part_values[G][MAX_HEAD];
    i64 offset[SEGMENT + LANES];
    Part all[G], part[G];
    for (i64 at = begin; at < end;) {
        const i64 next = (at / SEGMENT + 1) * SEGMENT, stop = next < end ? next : end, count = stop - at;
        find_keys(a, row, kv_head, at, stop, offset);
        for (i64 i = 0; i < LANES; ++i) offset[count + i] = offset[0];
        for (int g = 0; g < G; ++g) part[g].values = at == begin ? a.out + (row * a.heads + head + g) * d : part_values[g];
        segment<T, G>(q, keys, values, offset, count, at % LANES, d, a.scale, a.cap, part);
        for (int g = 0; g < G; ++g) {
            if (at == begin) all[g] = part[g];
            else merge(all[g], part[g], d);
        }
        at = stop;
    }
    if (a.sinks) {  // a last part: one key with this score and a value of zeros
        for (int g = 0; g < G; ++g) {
            std::memset(part_values[g], 0, sizeof part_values[g]);
            merge(all[g], Part{a.sinks[head + g], 1.f, part_values[g]}, d);
        }
    }
    for (int g = 0; g < G; ++g)
        for (i64 i = 0; i < d; i += LANES)
            store_up_to(all[g].values + i, div(load_up_to(all[g].values + i, d - i), set1(all[g].total)), d - i);
}

template <class T>
static void attend_group(const Attention& a, i64 row, i64 kv_head) {
    const i64 group = a.heads / a.cache.kv_heads, first = kv_head * group;
    i64 g = 0;
    for (; g + 4 <= group; g += 4) attend<T, 4>(a, row, kv_head, first + g);
    for (; g + 2 <= group; g += 2) attend<T, 2>(a, row, kv_head, first + g);
    for (; g < group; ++g) attend<T, 1>(a, row, kv_head, first + g);
}

static void attention(const Attention& a, i64 row, i64 kv_head) {
    if (a.cache.bf16) attend_group<uint16_t>(a, row, kv_head);
    else attend_group<float>(a, row, kv_head);
}

}  // namespace SLIP_ISA
}  // namespace slip
