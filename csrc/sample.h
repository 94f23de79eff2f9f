// Owns: the per-row parts of sampling (docs/numerics.md, section 4): tempering, weights, position-keyed Gumbel noise, arg max, log totals.
// Must not know: top-k and top-p, whose selection is exact integer work (select.cpp).
#pragma once
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 GROUP = 64;            // ids whose noise is made together: 16 Philox blocks of 4 words
constexpr float NOISE_LIMIT = 23.f;  // no Gumbel value reaches it: -log(2^-33) = 22.9
constexpr float LOWEST = -INFINITY, LARGEST = 3.40282347e38f;

static inline Vec cleaned(Vec z) {  // NaN counts as -inf, +inf as the largest number
    return where_equal(z, z, where_less(set1(LARGEST), z, set1(LARGEST), z), set1(LOWEST));
}
static inline Vec load_logits(const float* p, i64 n) {  // lanes past the end are -inf
    if (n >= LANES) return cleaned(load(p));
    float lanes[LANES];
    for (i64 l = 0; l < LANES; ++l) lanes[l] = l < n ? p[l] : LOWEST;
    return cleaned(load(lanes));
}

static float highest(const float* logits, i64 n) {
    Vec best = set1(LOWEST);
    for (i64 i = 0; i < n; i += LANES) best = max(load_logits(logits + i, n - i), best);
    return biggest(best);
}

static int32_t argmax(const float* logits, i64 n) {
    const float top = highest(logits, n);
    if (top == LOWEST) return 0;
    for (i64 i = 0; i < n; i += LANES)
        if (const uint32_t bits = equal_bits(load_logits(logits + i, n - i), set1(top)))
            return static_cast<int32_t>(i + __builtin_ctz(bits));
    return 0;
}

static float tempered(const float* logits, i64 n, float temperature, float* z, i64 padded) {
    Vec best = set1(LOWEST);
    for (i64 i = 0; i < padded; i += LANES) {
        Vec v = set1(LOWEST);
        if (i < n) v = cleaned(div(load_logits(logits + i, n - i), set1(temperature)));
        store(z + i, v);
        best = max(v, best);
    }
    return biggest(best);
}

static void weights(const float* z, i64 padded, float top, float* e) {
    for (i64 i = 0; i < padded; i += LANES) store(e + i, exp(sub(load(z + i), set1(top))));
}

static void drop_below(const float* e, float limit, float* z, i64 padded) {
    for (i64 i = 0; i < padded; i += LANES) store(z + i, where_less(load(e + i), set1(limit), set1(LOWEST), load(z + i)));
}

// Philox-4x32-10 (Salmon et al. 2011) of 16 counters (position, sample, block .. block+15, 0). c[w]: word w of each.
static inline void philox(uint64_t seed, int32_t position, int32_t sample, int32_t block, Int* c) {
    static const int32_t RAMP[LANES] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
    c[0] = seti(position), c[1] = seti(sample), c[2] = add(seti(block), load(RAMP)), c[3] = seti(0);
    for (int round = 0; round < 10; ++round) {
        Int high0, low0, high2, low2;
        wide_product(c[0], 0xD2511F53u, high0, low0);
        wide_product(c[2], 0xCD9E8D57u, high2, low2);
        c[0] = bit_xor(bit_xor(high2, c[1]), seti(static_cast<int32_t>(key0)));
        c[2] = bit_xor(bit_xor(high0, c[3]), seti(static_cast<int32_t>(key1)));
        c[1] = low2;
        c[3] = low0;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}
static inline void in_order_of_ids(const Int* c, int32_t* words) {
    int32_t lanes[4][LANES];
    for (int w = 0; w < 4; ++w) store(lanes[w], c[w]);
    for (int l = 0; l < LANES; ++l)
        for (int w = 0; w < 4; ++w) words[4 * l + w] = lanes[w][l];
}

static inline Vec gumbel(Int words) {
    const Vec k = unsigned_to_float(words);
    const Vec v = min(mul(add(k, set1(0.5f)), set1(0x1p-32f)), set1(1.f - 0x1p-24f));
    const Vec w = sub(set1(1.f), v);
    const Vec curved = div(mul(sub(zero(), log(w)), v), sub(set1(1.f), w));
    const Vec e = where_equal(w, set1(1.f), v, curved);
    return sub(zero(), log(e));
}

struct Best {
    float value;
    int32_t id;
};

// Whether any of these words can make noise of at least `missing`. Noise is at most -log(v) for a word v of 0..1, so the word must begin
// with missing / log 2 zero bits; the hundredth is far more than rounding.
static inline bool large_enough(const Int* c, float missing) {
    const float bits = (missing - 0.01f) * 1.442695f;
    if (!(bits >= 1.f)) return true;
    const Int first = seti(bits < 32.f ? static_cast<int32_t>(~(0xffffffffu >> static_cast<int>(bits))) : -1);
    return any_zero(bit_and(c[0], first)) || any_zero(bit_and(c[1], first)) || any_zero(bit_and(c[2], first)) ||
           any_zero(bit_and(c[3], first));
}

// `high`: the largest z of the group.
static inline void try_group(const float* z, i64 at, float high, uint64_t seed, int32_t position, int32_t sample, Best& best) {
    Int c[4];
    philox(seed, position, sample, static_cast<int32_t>(at / 4), c);
    if (!large_enough(c, best.value - high)) return;
    int32_t words[GROUP];
    in_order_of_ids(c, words);
    Vec y[GROUP / LANES], most = set1(LOWEST);
    for (i64 i = 0; i < GROUP / LANES; ++i) {
        y[i] = add(load(z + at + i * LANES), gumbel(load(words + i * LANES)));
        most = max(y[i], most);
    }
    const float top = biggest(most);
    if (top < best.value || top == LOWEST) return;
    for (i64 i = 0; i < GROUP / LANES; ++i)
        if (const uint32_t bits = equal_bits(y[i], set1(top))) {
            const int32_t id = static_cast<int32_t>(at + i * LANES + __builtin_ctz(bits));
            if (top > best.value || id < best.id) best = {top, id};
            return;
        }
}

// Groups that cannot win even with the largest noise are passed over; the likeliest id's group goes first, so most are.
static int32_t noisy_argmax(const float* z, i64 padded, uint64_t seed, int32_t position, int32_t sample) {
    const i64 start = argmax(z, padded) / GROUP * GROUP;
    Best best = {LOWEST, 0};
    try_group(z, start, 0.f, seed, position, sample, best);
    for (i64 at = 0; at < padded; at += GROUP) {
        if (at == start) continue;
        Vec high = load(z + at);
        for (i64 i = LANES; i < GROUP; i += LANES) high = max(load(z + at + i), high);
        if (less_bits(add(high, set1(NOISE_LIMIT)), set1(best.value)) != 0xffff)
            try_group(z, at, biggest(high), seed, position, sample, best);
    }
    return best.id;
}

static inline void words_of(i64 at, uint64_t seed, int32_t position, int32_t sample, int32_t* words) {  // of ids at..at + GROUP - 1
    Int c[4];
    philox(seed, position, sample, static_cast<int32_t>(at / 4), c);
    in_order_of_ids(c, words);
}

static void noise(float* out, i64 padded, uint64_t seed, int32_t position, int32_t sample) {
    int32_t words[GROUP];
    for (i64 at = 0; at < padded; at += GROUP) {
        words_of(at, seed, position, sample, words);
        for (i64 i = 0; i < GROUP; i += LANES) store(out + at + i, gumbel(load(words + i)));
    }
}

static void noise_words(uint32_t* out, i64 padded, uint64_t seed, int32_t position, int32_t sample) {
    for (i64 at = 0; at < padded; at += GROUP) words_of(at, seed, position, sample, reinterpret_cast<int32_t*>(out + at));
}

static void log_total(const float* logits, i64 n, float* top, float* log_sum) {
    *top = highest(logits, n);
    Vec total = zero();
    for (i64 i = 0; i < n; i += LANES) total = add(total, exp(sub(load_logits(logits + i, n - i), set1(*top))));
    *log_sum = log(sum(total));
}

// Ids strictly likelier than `value`, or equal with a lower id.
static i64 count_better(const float* logits, i64 n, float value, i64 id) {
    i64 better = 0;
    for (i64 i = 0; i < n; i += LANES) {
        const Vec v = load_logits(logits + i, n - i);
        better += __builtin_popcount(less_bits(set1(value), v));
        if (i >= id) continue;
        const uint32_t before = id - i < LANES ? (1u << (id - i)) - 1 : 0xffff;
        better += __builtin_popcount(equal_bits(v, set1(value)) & before);
    }
    return better;
}

}  // namespace SLIP_ISA
}  // namespace slip
