#include "drive.h"

#include <atomic>
#include <limits>

#include "split.h"

namespace slip {
namespace {

constexpr i64 SPREAD = 4096;  // numbers of a row that are spread at a time

std::vector<const Kernels*> find_isas() {
    std::vector<const Kernels*> found;
#if defined(SLIP_X86)
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (wide) found.push_back(avx512_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) found.push_back(avx2_kernels());
#endif
    found.push_back(portable_kernels());
    return found;
}
const std::vector<const Kernels*>& isas() {
    static const std::vector<const Kernels*> found = find_isas();
    return found;
}
std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

void refuse(const std::string& message) { throw std::invalid_argument(message); }

const Kernels& active() {
    const Kernels* table = chosen;
    if (!table) chosen = table = isas().front();
    return *table;
}

std::vector<std::string> usable_isas() {
    std::vector<std::string> names;
    for (const Kernels* table : isas()) names.emplace_back(table->name);
    return names;
}

void force_isa(const std::string& name) {
    std::string known;
    for (const Kernels* table : isas()) {
        if (name == table->name) {
            chosen = table;
            return;
        }
        known += std::string(known.empty() ? "" : ", ") + table->name;
    }
    refuse("force_isa: '" + name + "' is not usable on this machine; usable: " + known);
}

void embed(const int32_t* ids, const void* table, bool bf16, float* out, i64 rows, i64 vocab, i64 hidden) {
    within("embed", "ids", ids, rows, vocab);
    const Kernels& kernels = active();
    over_rows(rows, static_cast<double>(hidden), [&](i64 from, i64 to) { kernels.embed(ids, table, bf16, out, hidden, from, to); });
}

void norm(float* x, const float* residual, const float* weight, float eps, float* out, i64 rows, i64 hidden) {
    const Kernels& kernels = active();
    over_rows(rows, 2. * static_cast<double>(hidden),
              [&](i64 from, i64 to) { kernels.norm(x, residual, weight, eps, out, hidden, from, to); });
}

void layer_norm(float* x, const float* residual, const float* weight, const float* bias, float eps, float* out, i64 rows, i64 hidden) {
    const Kernels& kernels = active();
    over_rows(rows, 3. * static_cast<double>(hidden),
              [&](i64 from, i64 to) { kernels.layer_norm(x, residual, weight, bias, eps, out, hidden, from, to); });
}

void norm_slices(float* x, const float* weight, i64 start, i64 size, i64 count, float eps, i64 rows, i64 width) {
    const Kernels& kernels = active();
    over_rows(rows, 2. * static_cast<double>(size * count),
              [&](i64 from, i64 to) { kernels.norm_slices(x, weight, start, size, count, eps, width, from, to); });
}

void gated(const float* gate_up, float* out, i64 rows, i64 width, Activation kind) {
    const Kernels& kernels = active();
    over_rows(rows, 8. * static_cast<double>(width), [&](i64 from, i64 to) { kernels.gated(gate_up, out, width, kind, from, to); });
}

void activate(float* x, i64 rows, i64 width, Activation kind) {
    const Kernels& kernels = active();
    over_rows(rows, 8. * static_cast<double>(width), [&](i64 from, i64 to) { kernels.activate(x, width, kind, from, to); });
}

void add(float* x, const float* y, i64 rows, i64 width) {
    const Kernels& kernels = active();
    over_rows(rows, static_cast<double>(width), [&](i64 from, i64 to) { kernels.add(x, y, width, from, to); });
}

void scale(float* x, float factor, i64 rows, i64 width) {
    const Kernels& kernels = active();
    over_rows(rows, static_cast<double>(width), [&](i64 from, i64 to) { kernels.scale(x, factor, width, from, to); });
}

void softcap(float* x, float cap, i64 rows, i64 width) {
    const Kernels& kernels = active();
    over_rows(rows, 8. * static_cast<double>(width), [&](i64 from, i64 to) { kernels.softcap(x, cap, width, from, to); });
}

void spread(const float* some, const int32_t* places, float* out, i64 rows, i64 count, i64 width) {
    const i64 parts = (width + SPREAD - 1) / SPREAD;  // of a row, which may be the only one
    over_rows(rows * parts, 2. * SPREAD, [&](i64 from, i64 to) {
        for (i64 part = from; part < to; ++part) {
            const i64 row = part / parts, first = part % parts * SPREAD, end = first + SPREAD < width ? first + SPREAD : width;
            const float* own = some + row * count;
            for (i64 c = first; c < end; ++c) {
                const int32_t place = places[c];
                out[row * width + c] = place >= 0 && place < count ? own[place] : -std::numeric_limits<float>::infinity();
            }
        }
    });
}

}  // namespace slip
