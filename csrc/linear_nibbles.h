// Owns: layers whose weights are nibbles, on more than a few rows, for sets that pay for every unpacking (AVX2): a unit of a panel is
// unpacked once, then all rows at hand pass over it. Rule: the arithmetic of an output is linear_int.h's, only the order of work differs.
#pragma once
#include "linear_int.h"

namespace slip {
namespace SLIP_ISA {

constexpr i64 FEW_ROWS = 31;  // from which on bytes that are stored once cost less than nibbles that every tile unpacks

#if defined(SLIP_AVX2)
// A unit of a panel, unpacked; and what is taken off the products of each row.
template <class F, Scales S>
struct Unit {
    static constexpr i64 MOST = Way<F, S>::UNIT;
    alignas(64) uint8_t bytes[MOST * BLOCK * PANEL];
    Vec worth[2], least[2];
    int32_t off[ROW_BLOCK];

    void read(const Linear& a, const uint8_t* panel, i64 b, i64 count, i64 row, i64 rows) {
        for (i64 i = 0; i < count; ++i) unpack_u4(F::nibbles(F::at(panel, b + i)), bytes + i * BLOCK * PANEL);
        for (int h = 0; h < 2; ++h) {
            worth[h] = F::scale(panel, b, F::at(panel, b), h);
            if constexpr (F::LEAST) least[h] = F::least(panel, b, F::at(panel, b), h, worth[h]);
        }
        const int32_t* sum = a.sum + 2 * (b / MOST * a.rows + row);
        for (i64 r = 0; r < rows; ++r) off[r] = F::OFFSET * whole(sum, static_cast<int>(r));
    }
};

// R rows from `first` of the row block on times half h of the outputs.
template <class F, Scales S, int R>
__attribute__((always_inline)) static inline void rows_over(const Linear& a, i64 row, i64 first, const Unit<F, S>& unit, int h, i64 b, i64 count, float* acc) {
    using W = Way<F, S>;
    const int32_t* sum = a.sum + 2 * (b / W::UNIT * a.rows + row + first);
    const float* step = a.step + b / W::SPAN * a.rows + row + first;
    Int dots[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) dots[r] = seti(0);
    for (i64 i = 0; i < (W::UNIT == 1 ? 1 : count); ++i)
        dots_small<R>(unit.bytes + i * BLOCK * PANEL + h * LANES * 4, a.quant + ((b + i) * a.rows + row + first) * BLOCK, dots);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const Int dot = F::OFFSET ? sub(dots[r], seti(unit.off[first + r])) : dots[r];
        add_unit<F, S>(dot, unit.worth[h], unit.least[h], step[r], sum + 2 * r, acc + (first + r) * PANEL + h * LANES);
    }
}

template <class F, Scales S>
__attribute__((always_inline)) static inline void all_rows(const Linear& a, i64 row, i64 rows, const Unit<F, S>& unit, i64 b, i64 count, float* acc) {
    for (int h = 0; h < 2; ++h) {
        i64 r = 0;
        for (; rows - r >= 4; r += 4) rows_over<F, S, 4>(a, row, r, unit, h, b, count, acc);
        if (rows - r == 3) rows_over<F, S, 3>(a, row, r, unit, h, b, count, acc);
        else if (rows - r == 2) rows_over<F, S, 2>(a, row, r, unit, h, b, count, acc);
        else if (rows - r == 1) rows_over<F, S, 1>(a, row, r, unit, h, b, count, acc);
    }
}

template <class F, Scales S>
static void linear_unpacked(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
    constexpr i64 UNIT = Way<F, S>::UNIT;
    alignas(64) float acc[ROW_BLOCK * PANEL];
    Unit<F, S> unit;
    const i64 panel_bytes = F::at(nullptr, a.blocks) - F::at(nullptr, 0), block_bytes = F::at(nullptr, 1) - F::at(nullptr, 0);
    for (i64 row = from, end; row < to; row = end) {
        const i64 first = row / a.wide * a.wide, own = row - first;
        end = to < first + a.wide ? to : first + a.wide;
        const Linear block = row_block(a, first);
        for (i64 p = panel; p < panel + panels; ++p) {
            const uint8_t* weight = static_cast<const uint8_t*>(a.weight) + p * panel_bytes;
            std::memset(acc, 0, (end - row) * PANEL * sizeof(float));
            for (i64 b = 0; b < a.blocks; b += UNIT) {
                const i64 count = a.blocks - b < UNIT ? a.blocks - b : UNIT;
                prefetch_block(F::at(weight, b + AHEAD), count * block_bytes);
                unit.read(block, weight, b, count, own, end - row);
                all_rows(block, own, end - row, unit, b, count, acc);
            }
            finish_rows<F, S>(a, block, row, own, end - row, p, acc);
        }
    }
}
#endif

template <class F, Scales S = Scales::block>
static void linear_nibbles(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
#if defined(SLIP_AVX2)
    if (to - from > FEW_ROWS) return linear_unpacked<F, S>(a, panel, panels, from, to);
#endif
    linear_int<F, S>(a, panel, panels, from, to);
}

}  // namespace SLIP_ISA
}  // namespace slip
