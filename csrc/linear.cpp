// Owns: packing and running of linear layers: which kernel of the active set, how panels and rows are split over threads.
#include "split.h"

namespace slip {
namespace {

void pack_panel(Weight kind, const void* from, void* to, i64 n, i64 k, i64 panel) {
    const i64 first = panel * PANEL, count = n - first < PANEL ? n - first : PANEL, deep = (k + BLOCK - 1) / BLOCK * BLOCK;
    if (kind == Weight::fp32) {
        const float* w = static_cast<const float*>(from) + first * k;
        float* out = static_cast<float*>(to) + first * k;
        for (i64 i = 0; i < k; ++i)
            for (i64 c = 0; c < PANEL; ++c) out[i * PANEL + c] = c < count ? w[c * k + i] : 0.f;
    } else if (kind == Weight::bf16) {  // word l of a step: output l, then output l + 16
        const uint16_t* w = static_cast<const uint16_t*>(from) + first * k;
        uint16_t* out = static_cast<uint16_t*>(to) + first * k;
        for (i64 i = 0; i < k; ++i)
            for (i64 c = 0; c < PANEL; ++c) out[i * PANEL + c % 16 * 2 + c / 16] = c < count ? w[c * k + i] : 0;
    } else {
        const int8_t* w = static_cast<const int8_t*>(from) + first * k;
        uint8_t* out = static_cast<uint8_t*>(to) + first * deep;
        for (i64 i = 0; i < deep; ++i)
            for (i64 c = 0; c < PANEL; ++c)
                out[i / 4 * PANEL * 4 + c * 4 + i % 4] = static_cast<uint8_t>(c < count && i < k ? w[c * k + i] + 128 : 128);
    }
}

}  // namespace

i64 packed_bytes(Weight kind, i64 n, i64 k) {
    const i64 outputs = (n + PANEL - 1) / PANEL * PANEL;
    if (kind == Weight::int8) return outputs * ((k + BLOCK - 1) / BLOCK * BLOCK);
    return outputs * k * (kind == Weight::fp32 ? 4 : 2);
}

void pack(Weight kind, const void* from, void* to, i64 n, i64 k) {
    advise_huge(to, packed_bytes(kind, n, k));
    parallel((n + PANEL - 1) / PANEL, [&](i64 panel) { pack_panel(kind, from, to, n, k, panel); });
}

void linear(Weight kind, Linear a) {
    const Kernels& kernels = active();
    const auto kernel = kind == Weight::fp32 ? kernels.linear_fp32 : kind == Weight::bf16 ? kernels.linear_bf16 : kernels.linear_int8;
    if (kind == Weight::int8) {
        a.blocks = (a.k + BLOCK - 1) / BLOCK;
        const i64 blocks = a.rows * a.blocks;
        char* memory = scratch.take(blocks * (BLOCK + 8));
        a.block_scale = reinterpret_cast<float*>(memory);
        a.block_offset = reinterpret_cast<int32_t*>(memory + blocks * 4);
        a.quant = reinterpret_cast<int8_t*>(memory + blocks * 8);
        over_rows(a.rows, 4. * static_cast<double>(a.k), [&](i64 from, i64 to) { kernels.quantise(a, from, to); });
    }
    const i64 panels = (a.n + PANEL - 1) / PANEL;
    const double cost = static_cast<double>(a.k * PANEL) * static_cast<double>(a.rows < 8 ? 8 : a.rows) / 8;
    i64 groups = tasks_for(panels, cost), parts = 1;
    if (groups == panels && a.rows >= 32)
        parts = tasks_for(a.rows / 16, cost * static_cast<double>(panels) * 16 / static_cast<double>(a.rows));
    parallel(groups * parts, [&](i64 t) {
        const i64 g = t / parts, part = t % parts, first = panels * g / groups;
        kernel(a, first, panels * (g + 1) / groups - first, a.rows * part / parts, a.rows * (part + 1) / parts);
    });
}

}  // namespace slip
