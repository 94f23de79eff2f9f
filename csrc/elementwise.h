// Owns: embed, norm, rope + cache write and the gated activation, row by row.
#pragma once
#include "kernels.h"
#include "scalar_math.h"

namespace slip {
namespace SLIP_ISA {

template <class T>
static void widen(const T* from, float* to, i64 n) {
    for (i64 i = 0; i < n; i += LANES) store_up_to(to + i, load_up_to(from + i, n - i), n - i);
}

static void embed(const int32_t* ids, const void* table, bool bf16, float* out, i64 hidden, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r) {
        const i64 at = ids[r] * hidden;
        if (bf16) widen(static_cast<const uint16_t*>(table) + at, out + r * hidden, hidden);
        else std::memcpy(out + r * hidden, static_cast<const float*>(table) + at, hidden * sizeof(float));
    }
}

static void norm(float* x, const float* residual, const float* weight, float eps, float* out, i64 hidden, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r) {
        float* row = x + r * hidden;
        Vec acc = zero();
        for (i64 i = 0; i < hidden; i += LANES) {
            Vec v = load_up_to(row + i, hidden - i);
            if (residual) {
                v = add(v, load_up_to(residual + r * hidden + i, hidden - i));
                store_up_to(row + i, v, hidden - i);
            }
            acc = fma(v, v, acc);
        }
        const Vec scale = set1(1.f / std::sqrt(sum(acc) / static_cast<float>(hidden) + eps));
        for (i64 i = 0; i < hidden; i += LANES) {
            const Vec v = mul(mul(load_up_to(row + i, hidden - i), scale), load_up_to(weight + i, hidden - i));
            store_up_to(out + r * hidden + i, v, hidden - i);
        }
    }
}

static void rotate(float* head, const float* table, i64 half) {
    for (i64 i = 0; i < half; i += LANES) {
        const i64 n = half - i;
        const Vec a = load_up_to(head + i, n), b = load_up_to(head + half + i, n), c = load_up_to(table + i, n),
                  s = load_up_to(table + half + i, n);
        store_up_to(head + i, fma(sub(zero(), b), s, mul(a, c)), n);
        store_up_to(head + half + i, fma(a, s, mul(b, c)), n);
    }
}

template <class T>
static void write_head(const float* from, T* to, i64 n) {
    for (i64 i = 0; i < n; i += LANES) store_up_to(to + i, load_up_to(from + i, n - i), n - i);
}

static void rope_write(const RopeWrite& a, i64 from, i64 to) {
    const Cache& c = a.cache;
    const i64 d = c.head_dim, width = (a.heads + 2 * c.kv_heads) * d;
    for (i64 r = from; r < to; ++r) {
        float* row = a.qkv + r * width;
        const float* table = a.table + a.positions[r] * d;
        for (i64 h = 0; h < a.heads + c.kv_heads; ++h) rotate(row + h * d, table, d / 2);
        const i64 page = a.slots[r] / c.page_size, offset = a.slots[r] % c.page_size;
        for (i64 h = 0; h < c.kv_heads; ++h) {
            const i64 at = ((page * c.kv_heads + h) * c.page_size + offset) * d;
            const float *key = row + (a.heads + h) * d, *value = key + c.kv_heads * d;
            if (c.bf16) {
                write_head(key, static_cast<uint16_t*>(c.keys) + at, d);
                write_head(value, static_cast<uint16_t*>(c.values) + at, d);
            } else {
                write_head(key, static_cast<float*>(c.keys) + at, d);
                write_head(value, static_cast<float*>(c.values) + at, d);
            }
        }
    }
}

static void gated(const float* gate_up, float* out, i64 width, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r) {
        const float *gate = gate_up + r * 2 * width, *up = gate + width;
        for (i64 i = 0; i < width; i += LANES) {
            const Vec g = load_up_to(gate + i, width - i);
            const Vec silu = div(g, add(set1(1.f), exp(sub(zero(), g))));
            store_up_to(out + r * width + i, mul(silu, load_up_to(up + i, width - i)), width - i);
        }
    }
}

static void elementary(int which, const float* x, float* out, i64 n) {
    for (i64 i = 0; i < n; i += LANES) {
        const Vec v = load_up_to(x + i, n - i);
        store_up_to(out + i, which ? log(v) : exp(v), n - i);
    }
}

}  // namespace SLIP_ISA
}  // namespace slip
