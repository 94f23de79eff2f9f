#include "drive.h"

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>

#include "threads.h"

namespace slip {
namespace {

constexpr double SMALL = 60e3;  // multiply-adds (or elements touched) below which another thread costs more than it brings

// A thread's own growing block of memory, 64-byte aligned.
class Scratch {
 public:
    ~Scratch() { std::free(data_); }
    char* take(i64 bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = (bytes + 4095) / 4096 * 4096;
            data_ = static_cast<char*>(std::aligned_alloc(64, size_));
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }

 private:
    char* data_ = nullptr;
    i64 size_ = 0;
};
thread_local Scratch scratch;

std::vector<const Kernels*> find_isas() {
    std::vector<const Kernels*> found;
#if defined(SLIP_X86)
    __builtin_cpu_init();
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    if (wide) found.push_back(avx512_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(avx2_kernels());
#endif
    found.push_back(portable_kernels());
    return found;
}
const std::vector<const Kernels*>& isas() {
    static const std::vector<const Kernels*> found = find_isas();
    return found;
}
std::atomic<const Kernels*> chosen{nullptr};

// How many tasks `units` of `cost` each are worth.
i64 tasks_for(i64 units, double cost) {
    const i64 worth = static_cast<i64>(static_cast<double>(units) * cost / SMALL), most = threads() * i64{8};
    const i64 tasks = worth < most ? worth : most;
    return tasks < 1 ? 1 : tasks < units ? tasks : units;
}

template <class Body>
void over_rows(i64 rows, double cost, Body body) {
    const i64 tasks = tasks_for(rows, cost);
    parallel(tasks, [&](i64 t) { body(rows * t / tasks, rows * (t + 1) / tasks); });
}

[[noreturn]] void outside(const char* op, const char* what, i64 index, i64 value, i64 limit) {
    throw std::out_of_range(std::string(op) + ": " + what + "[" + std::to_string(index) + "] = " + std::to_string(value) +
                            " is outside 0.." + std::to_string(limit - 1));
}
void within(const char* op, const char* what, const int32_t* values, i64 n, i64 limit) {
    for (i64 i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] >= limit) outside(op, what, i, values[i], limit);
}

void check_row(const Attention& a, i64 row, i64 requests) {
    const i64 keys = a.positions[row] + i64{1}, linear = a.linear[row], tails = a.tail_start[row + 1] - a.tail_start[row];
    if (a.request[row] < 0 || a.request[row] >= requests) outside("attention", "request", row, a.request[row], requests);
    if (keys < 1 || linear < 0 || tails < 0 || linear + tails != keys)
        refuse("attention: row " + std::to_string(row) + " at position " + std::to_string(keys - 1) + " has linear=" +
               std::to_string(linear) + " and " + std::to_string(tails) + " tail slots; together they must be position + 1");
    const i64 pages = (linear + a.cache.page_size - 1) / a.cache.page_size;
    if (pages > a.max_pages)
        refuse("attention: row " + std::to_string(row) + " needs " + std::to_string(pages) + " pages; page_table holds " +
               std::to_string(a.max_pages));
    within("attention", "page_table", a.page_table + a.request[row] * a.max_pages, pages, a.cache.pages);
}

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

void rope_write(const RopeWrite& a, i64 max_len) {
    within("rope_write", "positions", a.positions, a.rows, max_len);
    within("rope_write", "slots", a.slots, a.rows, a.cache.pages * a.cache.page_size);
    const Kernels& kernels = active();
    const double cost = 2. * static_cast<double>((a.heads + 2 * a.cache.kv_heads) * a.cache.head_dim);
    over_rows(a.rows, cost, [&](i64 from, i64 to) { kernels.rope_write(a, from, to); });
}

void attention(const Attention& a, i64 requests, i64 tails) {
    const Cache& c = a.cache;
    if (c.head_dim < 1 || c.head_dim > MAX_HEAD)
        refuse("attention: head_dim=" + std::to_string(c.head_dim) + " must be between 1 and " + std::to_string(MAX_HEAD));
    if (a.heads % c.kv_heads)
        refuse("attention: " + std::to_string(a.heads) + " heads cannot share " + std::to_string(c.kv_heads) + " kv heads");
    if (a.rows && (a.tail_start[0] < 0 || a.tail_start[a.rows] > tails))
        outside("attention", "tail_start", a.rows, a.tail_start[a.rows], tails + 1);
    within("attention", "tail_slots", a.tail_slots, tails, c.pages * c.page_size);
    double work = 0;
    for (i64 r = 0; r < a.rows; ++r) {
        check_row(a, r, requests);
        work += 2. * static_cast<double>((a.positions[r] + 1) * a.heads * c.head_dim);
    }
    const Kernels& kernels = active();
    const i64 pairs = a.rows * c.kv_heads;
    auto attend = [&](i64 p) { kernels.attention(a, p % a.rows, p / a.rows); };  // rows of one kv head in turn: they share its keys
    if (work < SMALL) {
        for (i64 p = 0; p < pairs; ++p) attend(p);
    } else {
        parallel(pairs, attend);
    }
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

static int32_t sample_row(const Kernels& kernels, const float* logits, i64 vocab, const SampleRows& rows, i64 r) {
    const float temperature = rows.temperature[r], min_p = rows.min_p[r], top_p = rows.top_p[r];
    if (temperature == 0.f) return kernels.argmax(logits, vocab);
    const i64 padded = (vocab + 63) / 64 * 64;
    float *z = reinterpret_cast<float*>(scratch.take(2 * padded * 4)), *e = z + padded;
    const float top = kernels.tempered(logits, vocab, temperature, z, padded);
    if (top == -INFINITY) return 0;
    if (min_p > 0.f || top_p < 1.f) kernels.weights(z, padded, top, e);
    if (min_p > 0.f) kernels.drop_below(e, min_p, z, padded);
    if (rows.top_k[r] > 0 || top_p < 1.f) keep_top(z, e, vocab, top, rows.top_k[r], top_p);
    return kernels.noisy_argmax(z, padded, static_cast<uint64_t>(rows.seed[r]), rows.position[r], rows.sample[r]);
}

void sample(const float* logits, i64 rows, i64 vocab, const SampleRows& choices, int32_t* out) {
    if (vocab < 1) refuse("sample: vocab=" + std::to_string(vocab) + " must be at least 1");
    for (i64 r = 0; r < rows; ++r)
        if (!(choices.temperature[r] >= 0.f) || std::isinf(choices.temperature[r]))
            refuse("sample: temperature[" + std::to_string(r) + "] = " + std::to_string(choices.temperature[r]) +
                   " must be a number of at least 0");
    const Kernels& kernels = active();
    over_rows(rows, 4. * static_cast<double>(vocab), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) out[r] = sample_row(kernels, logits + r * vocab, vocab, choices, r);
    });
}

static float cleaned(float z) { return z != z ? -INFINITY : z > 3.40282347e38f ? 3.40282347e38f : z; }

void logprobs(const float* logits, i64 rows, i64 vocab, const int32_t* tokens, i64 top, float* logprob, int32_t* rank, int32_t* ids,
              float* values) {
    within("logprobs", "tokens", tokens, rows, vocab);
    if (top < 0 || top > vocab)
        refuse("logprobs: top=" + std::to_string(top) + " must be between 0 and the vocabulary's " + std::to_string(vocab));
    const Kernels& kernels = active();
    over_rows(rows, 8. * static_cast<double>(vocab), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) {
            const float* row = logits + r * vocab;
            float best, log_sum;
            kernels.log_total(row, vocab, &best, &log_sum);
            const auto value = [&](i64 id) { return cleaned(row[id]) == -INFINITY ? -INFINITY : cleaned(row[id]) - best - log_sum; };
            logprob[r] = value(tokens[r]);
            rank[r] = static_cast<int32_t>(1 + kernels.count_better(row, vocab, cleaned(row[tokens[r]]), tokens[r]));
            if (top) likeliest(row, vocab, top, ids + r * top);
            for (i64 i = 0; i < top; ++i) values[r * top + i] = value(ids[r * top + i]);
        }
    });
}

void move(char* pool, i64 layers, i64 pages, i64 kv_heads, i64 page_size, i64 bytes, const int32_t* source, const int32_t* target, i64 n) {
    within("move", "source", source, n, pages * page_size);
    within("move", "target", target, n, pages * page_size);
    const i64 plane = pages * kv_heads * page_size * bytes;
    const auto place = [&](i64 slot, i64 head) { return ((slot / page_size * kv_heads + head) * page_size + slot % page_size) * bytes; };
    for (i64 layer = 0; layer < layers * 2; ++layer)  // keys and values
        for (i64 i = 0; i < n; ++i)
            for (i64 h = 0; h < kv_heads; ++h)
                std::memmove(pool + layer * plane + place(target[i], h), pool + layer * plane + place(source[i], h), bytes);
}

}  // namespace slip
