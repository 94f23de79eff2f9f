// Owns: out = x W^T + bias over packed panels of 32 outputs whose weights are small integers, on rows that are quantised to int8.
// Rule: a block of 32 inputs is one exact integer product per output, then one FMA (two where a block has a least value); one output is
// one chain of blocks in ascending order. Tiles only choose how many chains run side by side. Layouts: docs/numerics.md, "Packing".
#pragma once
#include "dots.h"
#include "linear_float.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 RANGE = 32;  // blocks whose weights stay in the nearest caches while rows pass

// A format: where block b of a panel lies, the products of its outputs 16 h .. 16 h + 15 with R rows, and what a product is worth.
struct Int8 {  // [k / 4][32][4] of q + 128; the scale is the output's, so it comes last
    static constexpr bool SCALED = false, LEAST = false;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * BLOCK * PANEL; }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        dots_u8<R>(at + h * LANES * 4, x, sum, out);
    }
};

struct Q8_0 {  // fp16 scales of 32 outputs, then the block as in Int8
    static constexpr bool SCALED = true, LEAST = false;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * (2 * PANEL + BLOCK * PANEL); }
    static inline Vec scale(const uint8_t*, i64, const uint8_t* at, int h) { return load_half(at + h * LANES * 2); }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        dots_u8<R>(at + 2 * PANEL + h * LANES * 4, x, sum, out);
    }
};

struct Int4 {  // fp16 scales of 32 outputs, then [4][32][4] bytes: byte i of word j is q[4 j + i] + 8, and above it q[16 + 4 j + i] + 8
    static constexpr bool SCALED = true, LEAST = false;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * (2 * PANEL + BLOCK * PANEL / 2); }
    static inline Vec scale(const uint8_t*, i64, const uint8_t* at, int h) { return load_half(at + h * LANES * 2); }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        dots_u4<R>(at + 2 * PANEL + h * LANES * 4, x, sum, 8, out);
    }
};

struct Int4Zero {  // fp16 scales and u8 zeros of 32 outputs, then nibbles as in Int4: w = (q - zero) * scale
    static constexpr bool SCALED = true, LEAST = true;
    static const uint8_t* at(const uint8_t* panel, i64 b) { return panel + b * (3 * PANEL + BLOCK * PANEL / 2); }
    static inline Vec scale(const uint8_t*, i64, const uint8_t* at, int h) { return load_half(at + h * LANES * 2); }
    static inline Vec least(const uint8_t*, i64, const uint8_t* at, int h, Vec scale) {
        return mul(scale, to_float(widen_bytes(at + 2 * PANEL + h * LANES)));
    }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        dots_u4<R>(at + 3 * PANEL + h * LANES * 4, x, sum, 0, out);
    }
};

struct Q4K {  // 8 blocks share fp16 d and dmin of 32 outputs; a block: u8 scales and leasts, then nibbles: w = d * s * q - dmin * m
    static constexpr bool SCALED = true, LEAST = true;
    static constexpr i64 HEAD = 4 * PANEL, BODY = 2 * PANEL + BLOCK * PANEL / 2, GROUP = HEAD + 8 * BODY;
    static const uint8_t* head(const uint8_t* panel, i64 b) { return panel + b / 8 * GROUP; }
    static const uint8_t* at(const uint8_t* panel, i64 b) { return head(panel, b) + HEAD + b % 8 * BODY; }
    static inline Vec scale(const uint8_t* panel, i64 b, const uint8_t* at, int h) {
        return mul(load_half(head(panel, b) + h * LANES * 2), to_float(widen_bytes(at + h * LANES)));
    }
    static inline Vec least(const uint8_t* panel, i64 b, const uint8_t* at, int h, Vec) {
        return mul(load_half(head(panel, b) + 2 * PANEL + h * LANES * 2), to_float(widen_bytes(at + PANEL + h * LANES)));
    }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        dots_u4<R>(at + 2 * PANEL + h * LANES * 4, x, sum, 0, out);
    }
};

struct Q6K {  // 8 blocks share fp16 d of 32 outputs; a block: int8 scales of its two halves, then bytes as in Int8: w = d * s * q
    static constexpr bool SCALED = true, LEAST = false;
    static constexpr i64 HEAD = 2 * PANEL, BODY = 2 * PANEL + BLOCK * PANEL, GROUP = HEAD + 8 * BODY;
    static const uint8_t* head(const uint8_t* panel, i64 b) { return panel + b / 8 * GROUP; }
    static const uint8_t* at(const uint8_t* panel, i64 b) { return head(panel, b) + HEAD + b % 8 * BODY; }
    static inline Vec scale(const uint8_t* panel, i64 b, const uint8_t*, int h) { return load_half(head(panel, b) + h * LANES * 2); }
    template <int R>
    static inline void dots(const uint8_t* at, int h, const int8_t* x, const int32_t* sum, Int* out) {
        const uint8_t* q = at + 2 * PANEL + h * LANES * 4;
        const Int first = widen_signed(at + h * LANES), second = widen_signed(at + PANEL + h * LANES);
        Int low[R], high[R];
        half_dots<R>(q, x, sum, 0, low);
        half_dots<R>(q, x, sum, 1, high);
        for (int r = 0; r < R; ++r) out[r] = add(product(first, low[r]), product(second, high[r]));  // below 2^24: exact in fp32 too
    }
};

// R rows times H halves of a panel over blocks block .. block + blocks - 1.
template <class F, int R, int H>
static void tile_int(const Linear& a, i64 row, const uint8_t* panel, int first, i64 block, i64 blocks, float* acc) {
    for (i64 b = block; b < block + blocks; ++b) {
        const uint8_t* at = F::at(panel, b);
        const i64 place = b * a.rows + row;
        const int8_t* x = a.quant + place * BLOCK;
        const int32_t* sum = a.block_sum + 2 * place;
        if (R <= 2) prefetch_block(F::at(panel, b + AHEAD), F::at(panel, 1) - F::at(panel, 0));
#pragma GCC unroll 2
        for (int h = first; h < first + H; ++h) {
            Int dots[R];
            F::template dots<R>(at, h, x, sum, dots);
            Vec worth = zero(), least = zero();
            if constexpr (F::SCALED) worth = F::scale(panel, b, at, h);
            if constexpr (F::LEAST) least = F::least(panel, b, at, h, worth);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                float* out = acc + r * PANEL + h * LANES;
                const Vec step = set1(a.block_scale[place + r]);
                Vec y = fma(to_float(dots[r]), F::SCALED ? mul(worth, step) : step, load(out));
                if constexpr (F::LEAST) y = fma(set1(-static_cast<float>(whole(sum, r))), mul(least, step), y);
                store(out, y);
                settle();
            }
        }
    }
}

template <class F>
static void some_rows_int(int rows, const Linear& a, i64 row, const uint8_t* panel, i64 block, i64 blocks, float* acc) {
#define SLIP_ROWS(R)                                                                                                           \
    case R:                                                                                                                    \
        if constexpr (R <= INT_ROWS) {                                                                                         \
            constexpr int H = R <= 2 ? 2 : 1;                                                                                  \
            for (int first = 0; first < 2; first += H) tile_int<F, R, H>(a, row, panel, first, block, blocks, acc);            \
        }                                                                                                                      \
        break;
    switch (rows) { SLIP_ROWS(1) SLIP_ROWS(2) SLIP_ROWS(3) SLIP_ROWS(4) SLIP_ROWS(5) SLIP_ROWS(6) SLIP_ROWS(7) SLIP_ROWS(8) }
#undef SLIP_ROWS
}

template <class F>
static void linear_int(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
    alignas(64) float acc[ROW_BLOCK * PANEL];
    const i64 panel_bytes = F::at(nullptr, a.blocks) - F::at(nullptr, 0);
    for (i64 p = panel; p < panel + panels; ++p) {
        const uint8_t* weight = static_cast<const uint8_t*>(a.weight) + p * panel_bytes;
        for (i64 row = from; row < to; row += ROW_BLOCK) {
            const i64 rows = to - row < ROW_BLOCK ? to - row : ROW_BLOCK, parts = (rows + INT_ROWS - 1) / INT_ROWS;
            std::memset(acc, 0, rows * PANEL * sizeof(float));
            for (i64 b = 0; b < a.blocks; b += RANGE) {
                const i64 blocks = a.blocks - b < RANGE ? a.blocks - b : RANGE;
                for (i64 i = 0; i < parts; ++i) {
                    const i64 r = cut(rows, parts, i), count = cut(rows, parts, i + 1) - r;
                    some_rows_int<F>(static_cast<int>(count), a, row + r, weight, b, blocks, acc + r * PANEL);
                }
            }
            for (i64 r = 0; r < rows; ++r) finish_row(a, row + r, p, acc + r * PANEL);
        }
    }
}

// One block: s = max |x| / 127, q = rint(x / s) within -127..127, 0 where s is 0 (or where x is not a number).
static void quantise_block(const float* x, i64 n, int8_t* quant, float* scale, int32_t* sum) {
    const Vec v[2] = {load_up_to(x, n), n > LANES ? load_up_to(x + LANES, n - LANES) : zero()};
    const float s = biggest(max(size_of(v[0]), size_of(v[1]))) / 127.f;
    *scale = s;
    for (int i = 0; i < 2; ++i) {
        const Int q = quantised(v[i], s);
        narrow_bytes(quant + i * LANES, q);
        sum[i] = sum_lanes(q);
    }
}

// Rows lie by block, so that the rows of a tile are neighbours whatever k is (rows a power of two apart would share cache sets).
static void quantise(const Linear& a, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r)
        for (i64 b = 0; b < a.blocks; ++b) {
            const i64 place = b * a.rows + r;
            quantise_block(a.x + r * a.k + b * BLOCK, a.k - b * BLOCK < BLOCK ? a.k - b * BLOCK : BLOCK, a.quant + place * BLOCK,
                           a.block_scale + place, a.block_sum + 2 * place);
        }
}

}  // namespace SLIP_ISA
}  // namespace slip
