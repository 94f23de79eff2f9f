// Owns: out = x W^T + bias over packed panels of 32 outputs, in fp32, bf16 and int8 weights.
// Rule: one output is one chain of FMAs in ascending k (int8: in ascending blocks of 32); tiles only choose how many chains run side by
// side.
#pragma once
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

#if defined(SLIP_AVX512)
constexpr int WIDTH = 2;  // Vecs of a panel in one tile
constexpr int ROWS = 12;  // rows of the largest tile
constexpr int ROWS_INT8 = 6;
#elif defined(SLIP_AVX2)
constexpr int WIDTH = 1;
constexpr int ROWS = 6;
constexpr int ROWS_INT8 = 4;
#else
constexpr int WIDTH = 1;
constexpr int ROWS = 4;
constexpr int ROWS_INT8 = 4;
#endif
constexpr i64 K_BLOCK = 1024;  // k range whose weights (128 KiB in fp32) stay in L2 while rows pass
constexpr i64 ROW_BLOCK = 48;  // rows whose partial sums are kept while k passes

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
        store_up_to(a.out + row * a.n + at, y, left - c);
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

// int8 panel: [k / 4][32][4] of q + 128. dot4 adds four exact products to each of 16 lanes, less 128 * x (AVX-512: see `block_offset`).
#if defined(SLIP_AVX512)
static inline Int dot4(Int acc, const uint8_t* weight, int32_t four) {
    return {_mm512_dpbusd_epi32(acc.v, _mm512_loadu_si512(weight), _mm512_set1_epi32(four))};
}
constexpr bool OFFSET = true;
#elif defined(SLIP_AVX2)
static inline __m256i dot8(__m256i acc, const uint8_t* weight, __m256i four) {  // |w| <= 128 and |x| <= 127: the pair sums fit 16 bits
    const __m256i w =
        _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight)), _mm256_set1_epi8(static_cast<char>(0x80)));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(four, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline Int dot4(Int acc, const uint8_t* weight, int32_t four) {
    const __m256i x = _mm256_set1_epi32(four);
    return {dot8(acc.a, weight, x), dot8(acc.b, weight + 32, x)};
}
constexpr bool OFFSET = false;
#else
static inline Int dot4(Int acc, const uint8_t* weight, int32_t four) {
    int8_t x[4];
    std::memcpy(x, &four, 4);
    for (int l = 0; l < LANES; ++l)
        for (int i = 0; i < 4; ++i) acc.v[l] += (weight[4 * l + i] - 128) * x[i];
    return acc;
}
constexpr bool OFFSET = false;
#endif

template <int R, int W>
static void tile_int8(const Linear& a, i64 row, const uint8_t* weight, int first, i64 block, i64 blocks, float* acc) {
    Vec sums[R][W];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < W; ++v) sums[r][v] = load(acc + r * PANEL + (first + v) * LANES);
    const i64 stride = a.blocks * BLOCK;
    for (i64 b = block; b < block + blocks; ++b) {
        const int8_t* x = a.quant + row * stride + b * BLOCK;
        const uint8_t* w = weight + b * BLOCK * PANEL + first * LANES * 4;
        Int dots[R][W];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
            for (int v = 0; v < W; ++v) dots[r][v] = seti(OFFSET ? a.block_offset[(row + r) * a.blocks + b] : 0);
#pragma GCC unroll 8
        for (int g = 0; g < BLOCK / 4; ++g) {
            if (R == 1) __builtin_prefetch(w + g * PANEL * 4 + 2048), __builtin_prefetch(w + g * PANEL * 4 + 2112);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                int32_t four;
                std::memcpy(&four, x + r * stride + g * 4, 4);
#pragma GCC unroll 16
                for (int v = 0; v < W; ++v) dots[r][v] = dot4(dots[r][v], w + g * PANEL * 4 + v * LANES * 4, four);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const Vec s = set1(a.block_scale[(row + r) * a.blocks + b]);
#pragma GCC unroll 16
            for (int v = 0; v < W; ++v) sums[r][v] = fma(to_float(dots[r][v]), s, sums[r][v]);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
        for (int v = 0; v < W; ++v) store(acc + r * PANEL + (first + v) * LANES, sums[r][v]);
}

static void some_rows_int8(int rows, const Linear& a, i64 row, const uint8_t* weight, i64 block, i64 blocks, float* acc) {
#define SLIP_ROWS(R)                                                                                                       \
    case R:                                                                                                                \
        if constexpr (R <= ROWS_INT8)                                                                                      \
            for (int first = 0; first < 2; first += WIDTH) tile_int8<R, WIDTH>(a, row, weight, first, block, blocks, acc); \
        break;
    switch (rows) { SLIP_ROWS(1) SLIP_ROWS(2) SLIP_ROWS(3) SLIP_ROWS(4) SLIP_ROWS(5) SLIP_ROWS(6) }
#undef SLIP_ROWS
}

static void linear_int8(const Linear& a, i64 panel, i64 panels, i64 from, i64 to) {
    alignas(64) float acc[ROW_BLOCK * PANEL];
    constexpr i64 RANGE = 2 * K_BLOCK / BLOCK;
    for (i64 p = panel; p < panel + panels; ++p) {
        const uint8_t* weight = static_cast<const uint8_t*>(a.weight) + p * a.blocks * BLOCK * PANEL;
        for (i64 row = from; row < to; row += ROW_BLOCK) {
            const i64 rows = to - row < ROW_BLOCK ? to - row : ROW_BLOCK, parts = (rows + ROWS_INT8 - 1) / ROWS_INT8;
            std::memset(acc, 0, rows * PANEL * sizeof(float));
            for (i64 b = 0; b < a.blocks; b += RANGE) {
                const i64 blocks = a.blocks - b < RANGE ? a.blocks - b : RANGE;
                for (i64 i = 0; i < parts; ++i) {
                    const i64 r = cut(rows, parts, i), count = cut(rows, parts, i + 1) - r;
                    some_rows_int8(static_cast<int>(count), a, row + r, weight, b, blocks, acc + r * PANEL);
                }
            }
            for (i64 r = 0; r < rows; ++r) finish_row(a, row + r, p, acc + r * PANEL);
        }
    }
}

// One block: s = max |x| / 127, q = rint(x / s) within -127..127, 0 where s is 0 (or where x is not a number).
static void quantise_block(const float* x, i64 n, int8_t* quant, float* scale, int32_t* offset) {
    const Vec shift = set1(12582912.f);
    const Vec v[2] = {load_up_to(x, n), n > LANES ? load_up_to(x + LANES, n - LANES) : zero()};
    Vec size[2];
    for (int i = 0; i < 2; ++i) size[i] = as_float(bit_and(as_int(v[i]), seti(0x7fffffff)));
    const float s = biggest(max(size[0], size[1])) / 127.f;
    *scale = s;
    int32_t q[BLOCK], total = 0;
    for (int i = 0; i < 2; ++i) {
        const Vec ratio = s > 0.f ? div(v[i], set1(s)) : zero();
        const Vec held = min(max(ratio, set1(-127.f)), set1(127.f));
        store(q + i * LANES, sub(as_int(add(held, shift)), as_int(shift)));
    }
    for (int i = 0; i < BLOCK; ++i) {
        quant[i] = static_cast<int8_t>(q[i]);
        total += q[i];
    }
    *offset = -128 * total;
}

static void quantise(const Linear& a, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r)
        for (i64 b = 0; b < a.blocks; ++b) {
            const i64 at = r * a.blocks + b;
            quantise_block(a.x + r * a.k + b * BLOCK, a.k - b * BLOCK < BLOCK ? a.k - b * BLOCK : BLOCK, a.quant + at * BLOCK,
                           a.block_scale + at, a.block_offset + at);
        }
}

}  // namespace SLIP_ISA
}  // namespace slip
