// Owns: the Python face. Tensors arrive as addresses with sizes (tensor.data_ptr()); ops/cpu.py asserts shapes. The GIL is released around
// every op.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "drive.h"
#include "threads.h"

namespace nb = nanobind;
using namespace slip;
using Address = uintptr_t;

namespace {

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

Weight weight_named(const std::string& format) {
    if (format == "fp32") return Weight::fp32;
    if (format == "bf16") return Weight::bf16;
    if (format == "int8") return Weight::int8;
    refuse("linear: unknown weight format '" + format + "'; known: fp32, bf16, int8");
}

Cache cache(Address keys, Address values, bool bf16, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim) {
    return {at<void>(keys), at<void>(values), bf16, pages, kv_heads, page_size, head_dim};
}

template <int KIND>
void run_linear(Address x, Address weight, Address scale, Address bias, Address out, i64 rows, i64 n, i64 k) {
    Linear a{at<float>(x), at<void>(weight), at<float>(scale), at<float>(bias), at<float>(out), rows, n, k, nullptr, nullptr, nullptr, 0};
    linear(static_cast<Weight>(KIND), a);
}

void run_rope(Address qkv, Address positions, Address slots, Address table, i64 rows, i64 heads, i64 max_len, Address keys, Address values,
              bool bf16, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim) {
    rope_write({at<float>(qkv), at<int32_t>(positions), at<int32_t>(slots), at<float>(table),
                cache(keys, values, bf16, pages, kv_heads, page_size, head_dim), rows, heads},
               max_len);
}

void run_capped(Address qkv, Address out, i64 rows, i64 heads, i64 width, float scale, i64 window, Address keys, Address values, bool bf16,
                i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, Address request, Address positions, Address linear,
                Address tail_start, Address tail_slots, i64 tails, Address page_table, i64 requests, i64 max_pages, float cap) {
    attention({at<float>(qkv), at<float>(out), cache(keys, values, bf16, pages, kv_heads, page_size, head_dim), at<int32_t>(request),
               at<int32_t>(positions), at<int32_t>(linear), at<int32_t>(tail_start), at<int32_t>(tail_slots), at<int32_t>(page_table), rows,
               heads, width, max_pages, window, scale, cap},
              requests, tails);
}

void run_with_sinks(Address qkv, Address out, i64 rows, i64 heads, i64 width, float scale, i64 window, Address keys, Address values,
                    bool bf16, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, Address request, Address positions, Address linear,
                    Address tail_start, Address tail_slots, i64 tails, Address page_table, i64 requests, i64 max_pages, Address sinks) {
    attention({at<float>(qkv), at<float>(out), cache(keys, values, bf16, pages, kv_heads, page_size, head_dim), at<int32_t>(request),
               at<int32_t>(positions), at<int32_t>(linear), at<int32_t>(tail_start), at<int32_t>(tail_slots), at<int32_t>(page_table), rows,
               heads, width, max_pages, window, scale, 0.f, at<float>(sinks)},
              requests, tails);
}

void run_attention(Address qkv, Address out, i64 rows, i64 heads, i64 width, float scale, i64 window, Address keys, Address values,
                   bool bf16, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, Address request, Address positions, Address linear,
                   Address tail_start, Address tail_slots, i64 tails, Address page_table, i64 requests, i64 max_pages) {
    run_capped(qkv, out, rows, heads, width, scale, window, keys, values, bf16, pages, kv_heads, page_size, head_dim, request, positions,
               linear, tail_start, tail_slots, tails, page_table, requests, max_pages, 0.f);
}

template <Activation KIND>
void run_gated(Address gate_up, Address out, i64 rows, i64 width) {
    gated(at<float>(gate_up), at<float>(out), rows, width, KIND);
}

template <Activation KIND>
void run_activate(Address x, i64 rows, i64 width) {
    activate(at<float>(x), rows, width, KIND);
}

void run_sample(Address logits, i64 rows, i64 vocab, Address temperature, Address top_k, Address top_p, Address min_p, Address seed,
                Address position, Address index, Address out) {
    sample(at<float>(logits), rows, vocab,
           {at<float>(temperature), at<int32_t>(top_k), at<float>(top_p), at<float>(min_p), at<int64_t>(seed), at<int32_t>(position),
            at<int32_t>(index)},
           at<int32_t>(out));
}

void make_noise(Address out, i64 padded, uint64_t seed, i64 position, i64 index, bool words) {
    if (padded % 64) refuse("noise: n=" + std::to_string(padded) + " must be a multiple of 64");
    if (words) active().noise_words(at<uint32_t>(out), padded, seed, static_cast<int32_t>(position), static_cast<int32_t>(index));
    else active().noise(at<float>(out), padded, seed, static_cast<int32_t>(position), static_cast<int32_t>(index));
}

void set_thread_count(int count) {
    if (count < 1 || count > 256) refuse("set_threads: " + std::to_string(count) + " must be between 1 and 256");
    set_threads(count);
}

}  // namespace

NB_MODULE(_native, m) {
    const auto free = nb::call_guard<nb::gil_scoped_release>();
    m.doc() = "C++ kernels of Slipstream; see docs/numerics.md for their arithmetic and ops/cpu.py for the checked face.";
    m.def("isa", [] { return std::string(active().name); });
    m.def("isas", &usable_isas, "Instruction sets usable here, best first.");
    m.def("force_isa", &force_isa, nb::arg("name"), "For tests: all sets give the same bits.");
    m.def("threads", &threads);
    m.def("set_threads", &set_thread_count, nb::arg("count"), free);
    m.def(
        "embed",
        [](Address ids, Address table, bool bf16, Address out, i64 rows, i64 vocab, i64 hidden) {
            embed(at<int32_t>(ids), at<void>(table), bf16, at<float>(out), rows, vocab, hidden);
        },
        free);
    m.def(
        "norm",
        [](Address x, Address residual, Address weight, float eps, Address out, i64 rows, i64 hidden) {
            norm(at<float>(x), at<float>(residual), at<float>(weight), eps, at<float>(out), rows, hidden);
        },
        free);
    m.def("rope_write", &run_rope, free);
    m.def("attention", &run_attention, free);
    m.def("attention_softcap", &run_capped, free);
    m.def("attention_sinks", &run_with_sinks, free);
    m.def(
        "layer_norm",
        [](Address x, Address residual, Address weight, Address bias, float eps, Address out, i64 rows, i64 hidden) {
            layer_norm(at<float>(x), at<float>(residual), at<float>(weight), at<float>(bias), eps, at<float>(out), rows, hidden);
        },
        free);
    m.def(
        "norm_slices",
        [](Address x, Address weight, i64 start, i64 size, i64 count, float eps, i64 rows, i64 width) {
            norm_slices(at<float>(x), at<float>(weight), start, size, count, eps, rows, width);
        },
        free);
    m.def("gated", &run_gated<Activation::silu>, free);
    m.def("gated_gelu", &run_gated<Activation::gelu>, free);
    m.def("gated_gelu_tanh", &run_gated<Activation::gelu_tanh>, free);
    m.def("gelu", &run_activate<Activation::gelu>, free);
    m.def("gelu_tanh", &run_activate<Activation::gelu_tanh>, free);
    m.def("add", [](Address x, Address y, i64 rows, i64 width) { add(at<float>(x), at<float>(y), rows, width); }, free);
    m.def("scale", [](Address x, float factor, i64 rows, i64 width) { scale(at<float>(x), factor, rows, width); }, free);
    m.def("softcap", [](Address x, float cap, i64 rows, i64 width) { softcap(at<float>(x), cap, rows, width); }, free);
    m.def("packed_bytes", [](const std::string& format, i64 n, i64 k) { return packed_bytes(weight_named(format), n, k); });
    m.def(
        "pack",
        [](const std::string& format, Address from, Address to, i64 n, i64 k) {
            pack(weight_named(format), at<void>(from), at<void>(to), n, k);
        },
        free);
    m.def("linear_fp32", &run_linear<static_cast<int>(Weight::fp32)>, free);
    m.def("linear_bf16", &run_linear<static_cast<int>(Weight::bf16)>, free);
    m.def("linear_int8", &run_linear<static_cast<int>(Weight::int8)>, free);
    m.def("sample", &run_sample, free);
    m.def(
        "logprobs",
        [](Address logits, i64 rows, i64 vocab, Address tokens, i64 top, Address logprob, Address rank, Address ids, Address values) {
            logprobs(at<float>(logits), rows, vocab, at<int32_t>(tokens), top, at<float>(logprob), at<int32_t>(rank), at<int32_t>(ids),
                     at<float>(values));
        },
        free);
    m.def(
        "move",
        [](Address pool, i64 layers, i64 pages, i64 kv_heads, i64 page_size, i64 bytes, Address source, Address target, i64 n) {
            move(at<char>(pool), layers, pages, kv_heads, page_size, bytes, at<int32_t>(source), at<int32_t>(target), n);
        },
        free);
    m.def("noise", &make_noise, nb::arg("out"), nb::arg("n"), nb::arg("seed"), nb::arg("position"), nb::arg("sample"),
          nb::arg("words") = false, "Gumbel noise (or its Philox words) of ids 0..n-1.");
    m.def(
        "elementary", [](int which, Address x, Address out, i64 n) { active().elementary(which, at<float>(x), at<float>(out), n); },
        "exp (0), log (1), tanh (2), gelu (3) or gelu_tanh (4) of n numbers.");
    m.def("read_bandwidth", &read_bandwidth, nb::arg("bytes"), nb::arg("threads"), nb::arg("seconds"), free);
    m.def("peak", &peak, nb::arg("kind"), nb::arg("threads"), nb::arg("seconds"), free);
}
