// Owns: out = x W^T + bias over packed panels of 32 outputs whose weights are small integers, on rows that are quantised to int8.
// Rule: a unit of one or more blocks of 32 inputs is one exact integer product per output, then one FMA (two where a block has a least
// value); one output is one chain of units in ascending order. Tiles only choose how many chains run side by side. Layouts and what a
// unit is: docs/numerics.md, "Packing" and "Whole-number weights".
#pragma once
#include "dots.h"
#include "linear_float.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 ALL = i64{1} << 40;    // blocks: more than a layer has
constexpr i64 BESIDE = 4;            // panels that a row alone reads side by side

// A format: how many blocks share what a product is worth, where block b of a panel lies, the products of its outputs from 16 h on,
// H times 16 of them, with R rows, whether something is to be taken off them (a number for each of a row's: offset()), and what a product
// is worth.
struct Int8 {  // [k / 4][32][4] of q + 128; the scale is the output's, so it comes last
    static constexpr i64 GROUP = ALL;
    static constexpr bool OFFSET = BYTE_OFFSET != 0;
    static constexpr bool SCALED = false, LEAST = false;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * BLOCK * PANEL; }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t*, Int* out) {
        dots_u8<R, H>(at + h * LANES * 4, x, out);
    }
};

struct Q8_0 {  // fp16 scales of 32 outputs, then the block as in Int8
    static constexpr i64 GROUP = 1;
    static constexpr bool OFFSET = BYTE_OFFSET != 0;
    static constexpr bool SCALED = true, LEAST = false;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * (2 * PANEL + BLOCK * PANEL); }
    static inline Vec scale(const uint8_t*, i64, const uint8_t* at, int h) { return load_half(at + h * LANES * 2); }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t*, Int* out) {
        dots_u8<R, H>(at + 2 * PANEL + h * LANES * 4, x, out);
    }
};

// N blocks share fp16 scales of 32 outputs, which stand before them; a block is [4][32][4] bytes: byte i of word j is q[4 j + i] + 8, and
// above it q[16 + 4 j + i] + 8.
template <i64 N>
struct Int4By {
    static constexpr i64 GROUP = N, HEAD = 2 * PANEL, BODY = BLOCK * PANEL / 2;
    static constexpr bool OFFSET = true;
    static constexpr bool SCALED = true, LEAST = false;
    static const uint8_t* head(const uint8_t* panel, i64 b) { return panel + b / N * (HEAD + N * BODY); }
    static const uint8_t* at(const uint8_t* panel, i64 b) { return head(panel, b) + HEAD + b % N * BODY; }
    static inline Vec scale(const uint8_t* panel, i64 b, const uint8_t*, int h) { return load_half(head(panel, b) + h * LANES * 2); }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t*, Int* out) {
        dots_u4<R, H>(at + h * LANES * 4, x, out);
    }
};
using Int4 = Int4By<1>;

struct Int4Zero {  // fp16 scales and u8 zeros of 32 outputs, then nibbles as in Int4: w = (q - zero) * scale
    static constexpr i64 GROUP = 1;
    static constexpr bool OFFSET = false;
    static constexpr bool SCALED = true, LEAST = true;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * (3 * PANEL + BLOCK * PANEL / 2); }
    static inline Vec scale(const uint8_t*, i64, const uint8_t* at, int h) { return load_half(at + h * LANES * 2); }
    static inline Vec least(const uint8_t*, i64, const uint8_t* at, int h, Vec scale) {
        return mul(scale, to_float(widen_bytes(at + 2 * PANEL + h * LANES)));
    }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t*, Int* out) {
        dots_u4<R, H>(at + 3 * PANEL + h * LANES * 4, x, out);
    }
};

struct Q4K {  // 8 blocks share fp16 d and dmin of 32 outputs; a block: u8 scales and leasts, then nibbles: w = d * s * q - dmin * m
    static constexpr i64 GROUP = 1;
    static constexpr bool OFFSET = false;
    static constexpr bool SCALED = true, LEAST = true;
    static constexpr i64 HEAD = 4 * PANEL, BODY = 2 * PANEL + BLOCK * PANEL / 2;
    static const uint8_t* head(const uint8_t* panel, i64 b) { return panel + b / 8 * (HEAD + 8 * BODY); }
    static const uint8_t* at(const uint8_t* panel, i64 b) { return head(panel, b) + HEAD + b % 8 * BODY; }
    static inline Vec scale(const uint8_t* panel, i64 b, const uint8_t* at, int h) {
        return mul(load_half(head(panel, b) + h * LANES * 2), to_float(widen_bytes(at + h * LANES)));
    }
    static inline Vec least(const uint8_t* panel, i64 b, const uint8_t* at, int h, Vec) {
        return mul(load_half(head(panel, b) + 2 * PANEL + h * LANES * 2), to_float(widen_bytes(at + PANEL + h * LANES)));
    }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t*, Int* out) {
        dots_u4<R, H>(at + 2 * PANEL + h * LANES * 4, x, out);
    }
};

struct Q6K {  // 8 blocks share fp16 d of 32 outputs; a block: int8 scales of its two halves, then bytes as in Int8: w = d * s * q
    static constexpr i64 GROUP = 1;
    static constexpr bool OFFSET = false;
    static constexpr bool SCALED = true, LEAST = false;
    static constexpr i64 HEAD = 2 * PANEL, BODY = 2 * PANEL + BLOCK * PANEL;
    static const uint8_t* head(const uint8_t* panel, i64 b) { return panel + b / 8 * (HEAD + 8 * BODY); }
    static const uint8_t* at(const uint8_t* panel, i64 b) { return head(panel, b) + HEAD + b % 8 * BODY; }
    static inline Vec scale(const uint8_t* panel, i64 b, const uint8_t*, int h) { return load_half(head(panel, b) + h * LANES * 2); }
    template <int R, int H>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        for (int i = 0; i < H; ++i, ++h) {
            const uint8_t* q = at + 2 * PANEL + h * LANES * 4;
            const Int first = widen_signed(at + h * LANES), second = widen_signed(at + PANEL + h * LANES);
            Int low[R], high[R];
            half_dots<R>(q, x, sum, 0, low);
            half_dots<R>(q, x, sum, 1, high);
            for (int r = 0; r < R; ++r)  // below 2^24: exact in fp32 too
                out[r * H + i] = add(out[r * H + i], add(product(first, low[r]), product(second, high[r])));
        }
    }
};

// What a format makes of scales of activations: SPAN blocks share one, and of these UNIT have one integer product with a weight.
template <class F, Scales S>
struct Way {
    static constexpr i64 SPAN = S == Scales::block ? 1 : S == Scales::four ? 4 : ALL;
    static constexpr i64 UNIT = SPAN < F::GROUP ? SPAN : F::GROUP;
    static constexpr i64 STEP = UNIT == ALL ? 1 : UNIT;  // blocks that a tile takes at a time
    static constexpr bool WHOLE = UNIT == ALL;   // one product for all inputs: sums are integers to the end
    static constexpr bool LATE = SPAN > UNIT;    // units are summed before their activations' scale counts: at the end of the row
    static_assert(!LATE || SPAN == ALL, "a scale per four blocks of weights with scales of their own brings nothing: docs/benchmarks.md");
};

// The layer for the row block that begins with row `first`: what rows say is listed as if there were no others, so row 0 is `first`.
static inline Linear row_block(const Linear& a, i64 first) {
    Linear out = a;
    out.quant += first * a.blocks * BLOCK;
    out.step += first * ((a.blocks + a.span - 1) / a.span);
    out.sum += 2 * first * ((a.blocks + a.unit - 1) / a.unit);
    out.rows = a.wide;
    return out;
}

// What neighbouring rows say to a unit.
struct Rows {
    const int8_t* quant;  // [blocks, wide, 32]
    const float* step;    // [wide]
    const int32_t* sum;   // [wide, 2]
    i64 apart;            // bytes from a block's quants to the next one's
    Rows from(i64 r) const { return {quant + r * BLOCK, step + r, sum + 2 * r, apart}; }
};
template <class W>
static inline Rows rows_of(const Linear& a, i64 row, i64 b) {
    return {a.quant + (b * a.rows + row) * BLOCK, a.step + b / W::SPAN * a.rows + row, a.sum + 2 * (b / W::UNIT * a.rows + row),
            a.rows * BLOCK};
}

// acc = fma(dot, worth * step, acc), or without the step, which comes later; then what is taken off for the least value.
template <class F, Scales S>
static inline void add_unit(Int dot, Vec worth, Vec least, float step, int32_t sum, float* acc) {
    const Vec factor = Way<F, S>::LATE ? worth : F::SCALED ? mul(worth, set1(step)) : set1(step);
    Vec y = fma(to_float(dot), factor, load(acc));
    if constexpr (F::LEAST) y = fma(to_float(seti(sum)), mul(least, set1(step)), y);
    store(acc, y);
    settle();
}

// R rows times H halves of a panel's outputs, from half `first` on, over `count` blocks of one unit. Where one product is for all inputs,
// acc holds integers.
template <class F, Scales S, int R, int H>
static inline void one_tile(const Rows& rows, const uint8_t* panel, int first, i64 b, i64 count, float* acc) {
    using W = Way<F, S>;
    constexpr bool TAKEN = F::OFFSET && !W::WHOLE;
    int32_t* sums = reinterpret_cast<int32_t*>(acc) + first * LANES;
    Int dots[R * H];
#pragma GCC unroll 8
    for (int i = 0; i < R * H; ++i)
        dots[i] = W::WHOLE ? load(sums + i / H * PANEL + i % H * LANES) : seti(EARLY && TAKEN ? rows.sum[2 * (i / H)] : 0);
    for (i64 i = 0; i < (W::STEP == 1 ? 1 : count); ++i)
        F::template dots<R, H>(F::at(panel, b + i), first, rows.quant + i * rows.apart, rows.sum, dots);
#pragma GCC unroll 2
    for (int i = 0; i < H; ++i) {
        const int h = first + i;
        Vec worth = zero(), least = zero();
        if constexpr (F::SCALED) worth = F::scale(panel, b, F::at(panel, b), h);
        if constexpr (F::LEAST) least = F::least(panel, b, F::at(panel, b), h, worth);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            Int dot = dots[r * H + i];
            if constexpr (W::WHOLE) store(sums + r * PANEL + i * LANES, dot);
            else {
                if (!EARLY && TAKEN) dot = add(dot, seti(rows.sum[2 * r]));
                add_unit<F, S>(dot, worth, least, rows.step[r], rows.sum[2 * r], acc + r * PANEL + h * LANES);
            }
        }
    }
}

template <class F, Scales S>
static inline void some_rows(i64 count, const Rows& rows, const uint8_t* panel, i64 b, i64 blocks, float* acc) {
#define SLIP_ROWS(R)                                                                                                          \
    case R:                                                                                                                   \
        if constexpr (R <= INT_ROWS) {                                                                                        \
            constexpr int H = R <= 2 ? 2 : 1;                                                                                 \
            for (int first = 0; first < 2; first += H) one_tile<F, S, R, H>(rows, panel, first, b, blocks, acc);              \
        }                                                                                                                     \
        break;
    switch (count) { SLIP_ROWS(1) SLIP_ROWS(2) SLIP_ROWS(3) SLIP_ROWS(4) SLIP_ROWS(5) SLIP_ROWS(6) SLIP_ROWS(7) SLIP_ROWS(8) }
#undef SLIP_ROWS
}

// Sums of a row and panel that has one scale: acc = fma(sum, step, 0).
template <class F, bool WHOLE>
static void scale_row(const Linear& a, i64 row, float* acc) {
    for (int h = 0; h < 2; ++h) {
        float* at = acc + h * LANES;
        Vec y = load(at);
        if constexpr (WHOLE) y = to_float(add(load(reinterpret_cast<const int32_t*>(at)), seti(F::OFFSET ? a.sum[2 * row] : 0)));
        store(at, fma(y, set1(a.step[row]), zero()));
    }
}

template <class F, Scales S>
static void finish_rows(const Linear& a, const Linear& block, i64 row, i64 own, i64 rows, i64 panel, float* acc) {
    for (i64 r = 0; r < rows; ++r) {
        if constexpr (S == Scales::row) scale_row<F, Way<F, S>::WHOLE>(block, own + r, acc + r * PANEL);
        finish_row(a, row + r, panel, acc + r * PANEL);
    }
}

// The layer for a row alone: reading counts. A core fetches ahead by itself, but only so far for each place that it reads from, and
// what code asks for is worth less than that: so a few panels are read side by side.
template <class F, Scales S>
static void side_by_side(const Linear& a, i64 panel, i64 panels) {
    using W = Way<F, S>;
    alignas(64) float acc[BESIDE * PANEL];
    const i64 panel_bytes = F::at(nullptr, a.blocks) - F::at(nullptr, 0), groups = (panels + BESIDE - 1) / BESIDE;
    for (i64 g = 0; g < groups; ++g) {
        const i64 first = panel + cut(panels, groups, g), many = panel + cut(panels, groups, g + 1) - first;
        const uint8_t* weight = static_cast<const uint8_t*>(a.weight) + first * panel_bytes;
        std::memset(acc, 0, sizeof acc);
        for (i64 b = 0; b < a.blocks; b += W::STEP) {
            const i64 blocks = a.blocks - b < W::STEP ? a.blocks - b : W::STEP;
            const Rows alone = rows_of<W>(a, 0, b);
            for (i64 i = 0; i < many; ++i) one_tile<F, S, 1, 2>(alone, weight + i * panel_bytes, 0, b, blocks, acc + i * PANEL);
        }
        for (i64 i = 0; i < many; ++i) finish_rows<F, S>(a, a, 0, 0, 1, first + i, acc + i * PANEL);
    }
}

// All rows at hand pass over a unit of a panel before the next one is read: it comes from memory once, and then from the nearest cache.
template <class F, Scales S = Scales::block>
static void linear_int(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
    using W = Way<F, S>;
    if (a.rows == 1) return side_by_side<F, S>(a, panel, panels);
    alignas(64) float acc[ROW_BLOCK * PANEL];
    const i64 panel_bytes = F::at(nullptr, a.blocks) - F::at(nullptr, 0), block_bytes = F::at(nullptr, 1) - F::at(nullptr, 0);
    for (i64 row = from, end; row < to; row = end) {
        const i64 first = row / a.wide * a.wide, own = row - first;
        end = to < first + a.wide ? to : first + a.wide;
        const Linear block = row_block(a, first);
        const i64 rows = end - row, tiles = (rows + INT_ROWS - 1) / INT_ROWS, least = rows / tiles, more = rows % tiles;
        for (i64 p = panel; p < panel + panels; ++p) {
            const uint8_t* weight = static_cast<const uint8_t*>(a.weight) + p * panel_bytes;
            std::memset(acc, 0, rows * PANEL * sizeof(float));
            for (i64 b = 0; b < a.blocks; b += W::STEP) {
                const i64 blocks = a.blocks - b < W::STEP ? a.blocks - b : W::STEP;
                const Rows all = rows_of<W>(block, own, b);
                prefetch_block(F::at(weight, b + AHEAD), blocks * block_bytes);
                for (i64 i = 0, r = 0, count; r < rows; r += count, ++i) {
                    count = least + (i < more);
                    some_rows<F, S>(count, all.from(r), weight, b, blocks, acc + r * PANEL);
                }
            }
            finish_rows<F, S>(a, block, row, own, rows, p, acc);
        }
    }
}

// The largest size of n <= 32 numbers.
static inline Vec sizes(const float* x, i64 n) {
    return max(size_of(load_up_to(x, n)), size_of(n > LANES ? load_up_to(x + LANES, n - LANES) : zero()));
}

// One block: q = rint(x / s) within -127..127, 0 where s is 0; the sums of its halves are added to `sum`.
static inline void quantise_block(const float* x, i64 n, float s, int32_t offset, int8_t* quant, int32_t* sum) {
    Int q[2];
    for (int i = 0; i < 2; ++i) {
        const i64 left = n - i * LANES;
        q[i] = quantised(left > 0 ? load_up_to(x + i * LANES, left) : zero(), s);
        narrow_bytes(quant + i * LANES, q[i]);
    }
    const int32_t second = offset * sum_lanes(q[1]);
    sum[0] += offset * sum_lanes(q[0]) + second;
    sum[1] += second;
}

// What a format adds to a product for each of a row's numbers to take off what its weights have too much: nibbles 8, bytes what the set
// needs; where a least value is taken off afterwards, the number itself.
static int32_t offset(Weight kind) {
    if (kind == Weight::int4_zero || kind == Weight::q4_k) return -1;
    return kind == Weight::int8 || kind == Weight::q8_0 || kind == Weight::q6_k ? -BYTE_OFFSET : -8;
}

// Per span s = max |x| / 127. Rows lie by block, so that the rows of a tile are neighbours whatever k is (rows a power of two apart
// would share cache sets), and by row block, so that these are too.
static void quantise(const Linear& a, i64 from, i64 to) {
    const int32_t taken = offset(a.kind);
    for (i64 row = from; row < to; ++row) {
        const float* x = a.x + row * a.k;
        const Linear block = row_block(a, row / a.wide * a.wide);
        const i64 r = row % a.wide;
        for (i64 first = 0, next; first < a.blocks; first = next) {
            next = first + a.span < a.blocks ? first + a.span : a.blocks;
            Vec most = zero();
            for (i64 b = first; b < next; ++b) most = max(most, sizes(x + b * BLOCK, a.k - b * BLOCK));
            const float s = biggest(most) / 127.f;
            block.step[first / a.span * a.wide + r] = s;
            for (i64 b = first; b < next; ++b) {
                int32_t* sum = block.sum + 2 * (b / a.unit * a.wide + r);
                if (b % a.unit == 0) sum[0] = sum[1] = 0;
                quantise_block(x + b * BLOCK, a.k - b * BLOCK, s, taken, block.quant + (b * a.wide + r) * BLOCK, sum);
            }
        }
    }
}

}  // namespace SLIP_ISA
}  // namespace slip
