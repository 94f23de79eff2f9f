// Owns: the Python face of the ops on the KV cache.
#include "bind.h"

namespace slip {
namespace {

Cache cache(Address keys, Address values, int kind, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, i64 page, i64 head) {
    constexpr i64 bytes[] = {4, 2, 1}, scale[] = {0, 0, 4};  // by Kv
    if (kind < 0 || kind > 2) refuse("cache: kind=" + std::to_string(kind) + " must be between 0 and 2");
    return {at<void>(keys), at<void>(values), static_cast<Kv>(kind), pages, kv_heads, page_size, head_dim,
            head_dim * bytes[kind] + scale[kind], page, head};
}

void run_rope(Address qkv, Address positions, Address slots, Address table, i64 rows, i64 heads, i64 max_len, Address keys, Address values,
              int kind, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, i64 page, i64 head) {
    RopeWrite a{at<float>(qkv),   at<int32_t>(positions), at<int32_t>(slots),
                at<float>(table), cache(keys, values, kind, pages, kv_heads, page_size, head_dim, page, head), rows, heads};
    submit({rows}, [a, max_len](const Step& step) mutable {
        a.rows = step.rows;
        rope_write(a, max_len);
    });
}

// One face for all: cap 0 for none, sinks 0 for none.
void run_attention(Address qkv, Address out, i64 rows, i64 heads, i64 width, float scale, i64 window, Address keys, Address values,
                   int kind, i64 pages, i64 kv_heads, i64 page_size, i64 head_dim, i64 page, i64 head, Address request, Address positions, Address linear,
                   Address tail_start, Address tail_slots, i64 tails, Address page_table, i64 requests, i64 max_pages, float cap,
                   Address sinks) {
    Attention a{at<float>(qkv), at<float>(out), cache(keys, values, kind, pages, kv_heads, page_size, head_dim, page, head), at<int32_t>(request),
                at<int32_t>(positions), at<int32_t>(linear), at<int32_t>(tail_start), at<int32_t>(tail_slots), at<int32_t>(page_table),
                rows, heads, width, max_pages, window, scale, cap, at<float>(sinks)};
    submit({rows, tails}, [a, requests](const Step& step) mutable {
        a.rows = step.rows;
        attention(a, requests, step.tails);
    });
}

}  // namespace

void bind_cached(nanobind::module_& m) {
    m.def("rope_write", &run_rope, Free());
    m.def("attention", &run_attention, Free());
    m.def(
        "move",
        [](Address pool, i64 planes, i64 plane, i64 pages, i64 kv_heads, i64 page_size, i64 bytes, i64 page, i64 head, Address source,
           Address target, i64 n) {
            const Cache cache{at<void>(pool), nullptr, Kv::fp32, pages, kv_heads, page_size, 0, bytes, page, head};
            move(cache, planes, plane, at<int32_t>(source), at<int32_t>(target), n);
        },
        Free());
}

}  // namespace slip
