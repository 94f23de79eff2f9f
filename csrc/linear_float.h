// Owns: out = x W^T + bias over packed panels of 32 outputs, in fp32 and bf16 weights; and how a finished row is written.
// Rule: one output is one chain of FMAs in ascending k; tiles only choose how many chains run side by side.
#pragma once
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

#if defined(SLIP_AVX512)
constexpr int WIDTH = 2;  // Vecs of a panel in one tile
constexpr int ROWS = 12;  // rows of the largest tile
#elif defined(SLIP_AVX2)
constexpr int WIDTH = 1;
constexpr int ROWS = 6;
#else
constexpr int WIDTH = 1;
constexpr int ROWS = 4;
#endif
constexpr i64 K_BLOCK = 1024;  // k range whose weights (128 KiB in fp32) stay in L2 while rows pass

// fp32 panel: [k][32]. Reads Vecs first .. first+W-1 of step k.
struct Fp32Panel {
    static constexpr i64 STEP = 32 * 4;  // bytes per k
    template <int W>
    static inline void read(const char* at, int first, Vec* out) {
        for (int v = 0; v < W; ++v) out[v] = load(reinterpret_cast<const float*>(at) + (first + v) * LANES);
    }
};

// bf16 panel: [k][16] words; the low half of word l is output l, the high half is output l + 16.
struct Bf16Panel {
    static constexpr i64 STEP = 32 * 2;
    template <int W>
    static inline void read(const char* at, int first, Vec* out) {
        const Int words = load(reinterpret_cast<const int32_t*>(at));
        for (int v = 0; v < W; ++v)
            out[v] = as_float(first + v ? bit_and(words, seti(static_cast<int32_t>(0xffff0000))) : shift_left<16>(words));
    }
};

// R rows times W Vecs of P neighbouring panels over `steps` values of k; acc rows are P * 32 floats apart.
template <class Panel, int R, int P, int W>
static void tile(const float* x, i64 stride, const char* weight, i64 panel_bytes, int first, i64 steps, float* acc) {
    Vec sums[R][P][W];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
            for (int v = 0; v < W; ++v) sums[r][p][v] = load(acc + (r * P + p) * PANEL + (first + v) * LANES);
    for (i64 k = 0; k < steps; ++k) {
        Vec w[P][W];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
            const char* at = weight + p * panel_bytes + k * Panel::STEP;
            if (R == 1) __builtin_prefetch(at + 2048);
            Panel::template read<W>(at, first, w[p]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec input = set1(x[r * stride + k]);
#pragma GCC unroll 16
            for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
                for (int v = 0; v < W; ++v) sums[r][p][v] = fma(input, w[p][v], sums[r][p][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
#pragma GCC unroll 16
            for (int v = 0; v < W; ++v) store(acc + (r * P + p) * PANEL + (first + v) * LANES, sums[r][p][v]);
}

template <class Panel, int R, int P>
static void whole_tile(const float* x, i64 stride, const char* weight, i64 panel_bytes, i64 steps, float* acc) {
    constexpr int W = R <= 2 ? 2 : WIDTH;
    for (int first = 0; first < 2; first += W) tile<Panel, R, P, W>(x, stride, weight, panel_bytes, first, steps, acc);
}

template <class Panel, int P>
static void some_rows(int rows, const float* x, i64 stride, const char* weight, i64 panel_bytes, i64 steps, float* acc) {
#define SLIP_ROWS(R)                                                                                                   \
    case R:                                                                                                            \
        if constexpr (R <= ROWS && R * P <= ROWS) whole_tile<Panel, R, P>(x, stride, weight, panel_bytes, steps, acc); \
        break;
    switch (rows) {
        SLIP_ROWS(1)
        SLIP_ROWS(2) SLIP_ROWS(3) SLIP_ROWS(4) SLIP_ROWS(5) SLIP_ROWS(6) SLIP_ROWS(7) SLIP_ROWS(8) SLIP_ROWS(9) SLIP_ROWS(10) SLIP_ROWS(11)
            SLIP_ROWS(12)
    }
#undef SLIP_ROWS
}

static inline void finish_row(const Linear& a, i64 row, i64 panel, const float* acc) {
    const i64 left = a.n - panel * PANEL;
    for (i64 c = 0; c < PANEL && c < left; c += LANES) {
        const i64 at = panel * PANEL + c;
        Vec y = load(acc + c);
        if (a.scale) y = mul(y, load_up_to(a.scale + at, left - c));
        if (a.bias) y = add(y, load_up_to(a.bias + at, left - c));
        store_up_to(a.out + row * a.stride + at, y, left - c);
    }
}

// The i-th of `parts` nearly equal parts of [0, total).
static inline i64 cut(i64 total, i64 parts, i64 i) { return total * i / parts; }

template <class Panel, int P>
static void few_panels(const Linear& a, i64 panel, i64 from, i64 to) {
    constexpr int MOST = ROWS / P;
    const i64 panel_bytes = a.k * Panel::STEP;
    const char* weight = static_cast<const char*>(a.weight) + panel * panel_bytes;
    alignas(64) float acc[ROW_BLOCK * P * PANEL];
    for (i64 row = from; row < to; row += ROW_BLOCK) {
        const i64 rows = to - row < ROW_BLOCK ? to - row : ROW_BLOCK, parts = (rows + MOST - 1) / MOST;
        std::memset(acc, 0, rows * P * PANEL * sizeof(float));
        for (i64 k = 0; k < a.k; k += K_BLOCK) {
            const i64 steps = a.k - k < K_BLOCK ? a.k - k : K_BLOCK;
            for (i64 i = 0; i < parts; ++i) {
                const i64 r = cut(rows, parts, i), count = cut(rows, parts, i + 1) - r;
                some_rows<Panel, P>(static_cast<int>(count), a.x + (row + r) * a.k + k, a.k, weight + k * Panel::STEP, panel_bytes, steps,
                                    acc + r * P * PANEL);
            }
        }
        for (i64 r = 0; r < rows; ++r)
            for (int p = 0; p < P; ++p) finish_row(a, row + r, panel + p, acc + (r * P + p) * PANEL);
    }
}

template <class Panel>
static void linear_float(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
    i64 p = panel;
    if (to - from <= 2)  // too few chains in one panel to hide the latency of an FMA
        for (; p + 2 <= panel + panels; p += 2) few_panels<Panel, 2>(a, p, from, to);
    for (; p < panel + panels; ++p) few_panels<Panel, 1>(a, p, from, to);
}

static void linear_fp32(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) { linear_float<Fp32Panel>(a, panel, panels, from, to); }
static void linear_bf16(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) { linear_float<Bf16Panel>(a, panel, panels, from, to); }

}  // namespace SLIP_ISA
}  // namespace slip
