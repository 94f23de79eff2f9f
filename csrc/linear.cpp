// Owns: running of linear layers: which kernel of the active set, how panels and rows are split over threads.
#include "split.h"

namespace slip {

constexpr i64 MOST = 4096;  // blocks whose product fits 32 bits: 128 * 127 * 131,072 < 2^31

void linear(Weight kind, Scales scales, Linear a) {
    const Kernels& kernels = active();
    const auto kernel = kernels.linear[static_cast<int>(scales)][static_cast<int>(kind)];
    if (!kernel) refuse("linear: this weight format has no kernel for such scales of activations");
    if (kind != Weight::fp32 && kind != Weight::bf16) {
        a.kind = kind;
        a.blocks = (a.k + BLOCK - 1) / BLOCK;
        const i64 shared = sizes_of(kind).shared;
        a.span = scales == Scales::block ? 1 : scales == Scales::four ? 4 : a.blocks;
        a.unit = shared && shared < a.span ? shared : a.span;
        if (a.unit > MOST) refuse("linear: k=" + std::to_string(a.k) + " must be at most " + std::to_string(MOST * BLOCK) + " with one scale per row");
        a.wide = a.rows < ROW_BLOCK ? a.rows : ROW_BLOCK;
        const i64 blocks = (a.rows + a.wide - 1) / a.wide * a.wide * a.blocks;
        char* memory = scratch.take(blocks * (BLOCK + 12));
        a.step = reinterpret_cast<float*>(memory);
        a.sum = reinterpret_cast<int32_t*>(memory + blocks * 4);
        a.quant = reinterpret_cast<int8_t*>(memory + blocks * 12);
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
