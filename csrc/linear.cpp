// Owns: running of linear layers: which kernel of the active set, how panels and rows are split over threads.
#include "split.h"

namespace slip {

void linear(Weight kind, Linear a) {
    const Kernels& kernels = active();
    const auto kernel = kernels.linear[static_cast<int>(kind)];
    if (kind != Weight::fp32 && kind != Weight::bf16) {
        a.blocks = (a.k + BLOCK - 1) / BLOCK;
        const i64 blocks = a.rows * a.blocks;
        char* memory = scratch.take(blocks * (BLOCK + 12));
        a.block_scale = reinterpret_cast<float*>(memory);
        a.block_sum = reinterpret_cast<int32_t*>(memory + blocks * 4);
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
