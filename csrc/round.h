// Owns: rounding of weights to int8, q8_0 and int4 in groups of 32, 64 or 128, row by row. The rules are those of quant/formats, whose torch code gives the same
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

template <int N>
struct Group {  // 16 * N numbers
    Vec v[N];
};
template <int N, class F>
static inline Group<N> each_of(const Group<N>& w, F f) {
    Group<N> out;
    for (int i = 0; i < N; ++i) out.v[i] = f(w.v[i]);
    return out;
}
template <int N>
static inline Group<N> whole(const Group<N>& w, float step, float least, float most) {
    const Vec s = set1(step), low = set1(least), high = set1(most), shift = set1(SHIFT);
    return each_of(w, [&](Vec v) { return step == 0.f ? zero() : sub(add(min(max(div(v, s), low), high), shift), shift); });
}
static inline Int to_whole(Vec v) { return sub(as_int(add(v, set1(SHIFT))), as_int(set1(SHIFT))); }
template <int N>
static inline float dot(const Group<N>& x, const Group<N>& y) {
    Vec acc = mul(x.v[0], y.v[0]);
    for (int i = 1; i < N; ++i) acc = fma(x.v[i], y.v[i], acc);
    return sum(acc);
}
template <int N>
static inline float largest(const Group<N>& w) {
    Vec most = w.v[0];
    for (int i = 1; i < N; ++i) most = max(most, w.v[i]);
    return biggest(most);
}

template <int N>
static uint16_t round_int4(const Group<N>& w, uint8_t* out) {  // returns the scale
    const auto negative = each_of(w, [](Vec v) { return sub(zero(), v); });
    const float high = largest(w), low = -largest(negative), most = -low >= high ? low : high;
    Group<N> best{};
    uint16_t best_step = 0;
    float best_error = INFINITY;
    for (const float first : {most / -8.f, most / 7.f}) {
        Group<N> q = whole(w, first, -8.f, 7.f), error;
        const float square = dot(q, q);
        const uint16_t half = square > 0.f ? to_half(dot(q, w) / square) : 0;
        const float step = of_half(half);
        q = whole(w, step, -8.f, 7.f);
        for (int i = 0; i < N; ++i) error.v[i] = sub(mul(q.v[i], set1(step)), w.v[i]);
        const float size = dot(error, error);
        if (size < best_error || best_error == INFINITY) best = q, best_step = half, best_error = size;
    }
    for (int block = 0; block < N; block += 2) {
        int32_t q[BLOCK];
        store(q, to_whole(best.v[block]));
        store(q + LANES, to_whole(best.v[block + 1]));
        for (int i = 0; i < LANES; ++i) *out++ = static_cast<uint8_t>((q[i] + 8) | (q[i + LANES] + 8) << 4);
    }
    return best_step;
}

template <int N, class T>
static Group<N> group_at(const T* w, i64 left) {  // `left` numbers are there
    Group<N> out;
    for (int i = 0; i < N; ++i, left -= LANES) out.v[i] = left > 0 ? load_up_to(w + i * LANES, left) : zero();
    return out;
}

template <int N, class T>
static void round_row_int4(const T* w, i64 k, uint8_t* quants, uint16_t* scales) {
    for (i64 at = 0; at < k; at += N * LANES) *scales++ = round_int4(group_at<N>(w + at, k - at), quants + at / 2);
}

template <class T>
static void round_row(Weight kind, const T* w, i64 k, uint8_t* quants, void* scales, i64 row) {
    auto* halves = static_cast<uint16_t*>(scales);
    if (kind == Weight::int4) return round_row_int4<2>(w, k, quants + row * (k / 2), halves + row * (k / BLOCK));
    if (kind == Weight::int4_64) return round_row_int4<4>(w, k, quants + row * (k / 2), halves + row * (k / (2 * BLOCK)));
    if (kind == Weight::int4_128) return round_row_int4<8>(w, k, quants + row * (k / 2), halves + row * (k / (4 * BLOCK)));
    const auto size = [&](i64 at) { return each_of(group_at<2>(w + at, k - at), [](Vec v) { return max(v, sub(zero(), v)); }); };
    float step = 0.f;
    if (kind == Weight::int8) {
        Vec most = zero();
        for (i64 at = 0; at < k; at += BLOCK) {
            const auto p = size(at);
            most = max(most, max(p.v[0], p.v[1]));
        }
        step = biggest(most) / 127.f;
        static_cast<float*>(scales)[row] = step;
    }
    for (i64 at = 0; at < k; at += BLOCK) {
        if (kind == Weight::q8_0) {
            const uint16_t half = to_half(largest(size(at)) / 127.f);
            halves[row * (k / BLOCK) + at / BLOCK] = half;
            step = of_half(half);
        }
        const auto q = whole(group_at<2>(w + at, k - at), step, -127.f, 127.f);
        int8_t bytes[BLOCK];
        narrow_bytes(bytes, to_whole(q.v[0]));
        narrow_bytes(bytes + LANES, to_whole(q.v[1]));
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
