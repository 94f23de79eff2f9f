// Owns: rounding of weights to int8, q8_0 and int4, row by row. The rules are those of quant/formats, whose torch code gives the same
// bits: sums over a group are lanes16 of docs/numerics.md.
#pragma once
#include <initializer_list>

#include "dots.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

constexpr float SHIFT = 12582912.f;  // 1.5 * 2^23: adding it rounds to the nearest whole number, ties to even

static inline uint16_t to_half(float x) {  // to nearest even
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // rounds to 65536 or more
    if (size < 0x38800000) {                                             // below 2^-14: multiples of 2^-24
        float whole;
        std::memcpy(&whole, &size, 4);
        return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyint(whole * 16777216.f)));
    }
    const uint32_t rounded = size + 0xfff + (size >> 13 & 1);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000) >> 13));
}
static inline float of_half(uint16_t h) {
    uint8_t bytes[2 * LANES] = {};
    std::memcpy(bytes, &h, 2);
    float lanes[LANES];
    store(lanes, load_half(bytes));
    return lanes[0];
}

struct Pair {  // a group of 32 numbers
    Vec a, b;
};
static inline Pair whole(Pair w, float step, float least, float most) {
    if (step == 0.f) return {zero(), zero()};
    const Vec s = set1(step), low = set1(least), high = set1(most), shift = set1(SHIFT);
    const auto one = [&](Vec v) { return sub(add(min(max(div(v, s), low), high), shift), shift); };
    return {one(w.a), one(w.b)};
}
static inline Int to_whole(Vec v) { return sub(as_int(add(v, set1(SHIFT))), as_int(set1(SHIFT))); }
static inline float dot(Pair x, Pair y) { return sum(fma(x.b, y.b, mul(x.a, y.a))); }
static inline float largest(Pair w) { return biggest(max(w.a, w.b)); }
static inline Pair negative(Pair w) { return {sub(zero(), w.a), sub(zero(), w.b)}; }

static uint16_t round_int4(Pair w, uint8_t* out) {  // returns the scale
    const float high = largest(w), low = -largest(negative(w)), most = -low >= high ? low : high;
    Pair best{};
    uint16_t best_step = 0;
    float best_error = INFINITY;
    for (const float first : {most / -8.f, most / 7.f}) {
        Pair q = whole(w, first, -8.f, 7.f);
        const float square = dot(q, q);
        const uint16_t half = square > 0.f ? to_half(dot(q, w) / square) : 0;
        const float step = of_half(half);
        q = whole(w, step, -8.f, 7.f);
        const Vec s = set1(step);
        const Pair error{sub(mul(q.a, s), w.a), sub(mul(q.b, s), w.b)};
        const float size = dot(error, error);
        if (size < best_error || best_error == INFINITY) best = q, best_step = half, best_error = size;
    }
    int32_t q[BLOCK];
    store(q, to_whole(best.a));
    store(q + LANES, to_whole(best.b));
    for (int i = 0; i < LANES; ++i) out[i] = static_cast<uint8_t>((q[i] + 8) | (q[i + LANES] + 8) << 4);
    return best_step;
}

template <class T>
static void round_row(Weight kind, const T* w, i64 k, uint8_t* quants, void* scales, i64 row) {
    const auto group = [&](i64 at) {
        const i64 n = k - at;
        return Pair{load_up_to(w + at, n), n > LANES ? load_up_to(w + at + LANES, n - LANES) : zero()};
    };
    const auto size = [](Pair p) { return Pair{max(p.a, sub(zero(), p.a)), max(p.b, sub(zero(), p.b))}; };
    float step = 0.f;
    if (kind == Weight::int8) {
        Vec most = zero();
        for (i64 at = 0; at < k; at += BLOCK) {
            const Pair p = size(group(at));
            most = max(most, max(p.a, p.b));
        }
        step = biggest(most) / 127.f;
        static_cast<float*>(scales)[row] = step;
    }
    for (i64 at = 0; at < k; at += BLOCK) {
        const Pair p = group(at);
        const i64 block = row * ((k + BLOCK - 1) / BLOCK) + at / BLOCK;
        if (kind == Weight::int4) {
            static_cast<uint16_t*>(scales)[block] = round_int4(p, quants + row * (k / 2) + at / 2);
            continue;
        }
        if (kind == Weight::q8_0) {
            const uint16_t half = to_half(largest(size(p)) / 127.f);
            static_cast<uint16_t*>(scales)[block] = half;
            step = of_half(half);
        }
        const Pair q = whole(p, step, -127.f, 127.f);
        int8_t bytes[BLOCK];
        narrow_bytes(bytes, to_whole(q.a));
        narrow_bytes(bytes + LANES, to_whole(q.b));
        std::memcpy(quants + row * k + at, bytes, k - at < BLOCK ? k - at : BLOCK);
    }
}

static void round_rows(const Rounding& r, i64 from, i64 to) {
    for (i64 row = from; row < to; ++row) {
        if (r.bf16) round_row(r.kind, static_cast<const uint16_t*>(r.weight) + row * r.k, r.k, r.quants, r.scales, row);
        else round_row(r.kind, static_cast<const float*>(r.weight) + row * r.k, r.k, r.quants, r.scales, row);
    }
}

}  // namespace SLIP_ISA
}  // namespace slip
