// Owns: embed, norms, rope + cache write, activations and soft-caps, row by row.
#pragma once
#include "dots.h"
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

static void layer_norm(float* x, const float* residual, const float* weight, const float* bias, float eps, float* out, i64 hidden, i64 from,
                       i64 to) {
    for (i64 r = from; r < to; ++r) {
        float *row = x + r * hidden, *centred = out + r * hidden;
        Vec acc = zero();
        for (i64 i = 0; i < hidden; i += LANES) {
            Vec v = load_up_to(row + i, hidden - i);
            if (residual) {
                v = add(v, load_up_to(residual + r * hidden + i, hidden - i));
                store_up_to(row + i, v, hidden - i);
            }
            acc = add(v, acc);
        }
        const Vec mean = set1(sum(acc) / static_cast<float>(hidden));
        acc = zero();
        for (i64 i = 0; i < hidden; i += LANES) {
            store_up_to(centred + i, sub(load_up_to(row + i, hidden - i), mean), hidden - i);
            const Vec v = load_up_to(centred + i, hidden - i);  // missing lanes are 0 again
            acc = fma(v, v, acc);
        }
        const Vec scale = set1(1.f / std::sqrt(sum(acc) / static_cast<float>(hidden) + eps));
        for (i64 i = 0; i < hidden; i += LANES) {
            const i64 n = hidden - i;
            store_up_to(centred + i, fma(mul(load_up_to(centred + i, n), scale), load_up_to(weight + i, n), load_up_to(bias + i, n)), n);
        }
    }
}

static void norm_slices(float* x, const float* weight, i64 start, i64 size, i64 count, float eps, i64 width, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r)
        for (i64 s = 0; s < count; ++s) {
            float* slice = x + r * width + start + s * size;
            norm(slice, nullptr, weight + s * size, eps, slice, size, 0, 1);
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

static void write_head(const float* from, int8_t* to, i64 n) {  // then the scale
    Vec most = zero();
    for (i64 i = 0; i < n; i += LANES) most = max(size_of(load_up_to(from + i, n - i)), most);
    const float s = biggest(most) / 127.f;
    for (i64 i = 0; i < n; i += LANES) {
        int8_t lanes[LANES];
        narrow_bytes(lanes, quantised(load_up_to(from + i, n - i), s));
        std::memcpy(to + i, lanes, n - i < LANES ? n - i : LANES);
    }
    std::memcpy(to + n, &s, sizeof s);
}

template <class T>
static void write_token(const Cache& c, i64 slot, const float* keys) {  // values stand behind the keys of all heads
    const i64 d = c.head_dim;
    for (i64 h = 0; h < c.kv_heads; ++h) {
        const i64 at = c.place(slot, h);
        const float *key = keys + h * d, *value = key + c.kv_heads * d;
        write_head(key, reinterpret_cast<T*>(static_cast<char*>(c.keys) + at), d);
        write_head(value, reinterpret_cast<T*>(static_cast<char*>(c.values) + at), d);
    }
}

static void rope_write(const RopeWrite& a, i64 from, i64 to) {
    const Cache& c = a.cache;
    const i64 d = c.head_dim, width = (a.heads + 2 * c.kv_heads) * d;
    for (i64 r = from; r < to; ++r) {
        float* row = a.qkv + r * width;
        const float* table = a.table + a.positions[r] * d;
        for (i64 h = 0; h < a.heads + c.kv_heads; ++h) rotate(row + h * d, table, d / 2);
        const float* keys = row + a.heads * d;
        if (c.kind == Kv::int8) write_token<int8_t>(c, a.slots[r], keys);
        else if (c.kind == Kv::bf16) write_token<uint16_t>(c, a.slots[r], keys);
        else write_token<float>(c, a.slots[r], keys);
    }
}

template <Vec (*F)(Vec)>
static void gated_by(const float* gate_up, float* out, i64 width, i64 from, i64 to) {
    for (i64 r = from; r < to; ++r) {
        const float *gate = gate_up + r * 2 * width, *up = gate + width;
        for (i64 i = 0; i < width; i += LANES)
            store_up_to(out + r * width + i, mul(F(load_up_to(gate + i, width - i)), load_up_to(up + i, width - i)), width - i);
    }
}

static void gated(const float* gate_up, float* out, i64 width, Activation kind, i64 from, i64 to) {
    if (kind == Activation::silu) gated_by<silu>(gate_up, out, width, from, to);
    else if (kind == Activation::gelu) gated_by<gelu>(gate_up, out, width, from, to);
    else gated_by<gelu_tanh>(gate_up, out, width, from, to);
}

template <class F>
static void each(float* x, i64 width, i64 from, i64 to, F f) {  // rows are contiguous, so they are one stretch of numbers
    for (i64 i = from * width, end = to * width; i < end; i += LANES) store_up_to(x + i, f(load_up_to(x + i, end - i)), end - i);
}

static void activate(float* x, i64 width, Activation kind, i64 from, i64 to) {
    if (kind == Activation::gelu) each(x, width, from, to, [](Vec v) { return gelu(v); });
    else each(x, width, from, to, [](Vec v) { return gelu_tanh(v); });
}

static void add(float* x, const float* y, i64 width, i64 from, i64 to) {
    for (i64 i = from * width, end = to * width; i < end; i += LANES)
        store_up_to(x + i, add(load_up_to(x + i, end - i), load_up_to(y + i, end - i)), end - i);
}

static void scale(float* x, float factor, i64 width, i64 from, i64 to) {
    each(x, width, from, to, [factor](Vec v) { return mul(v, set1(factor)); });
}

static void softcap(float* x, float cap, i64 width, i64 from, i64 to) {
    each(x, width, from, to, [cap](Vec v) { return mul(set1(cap), tanh(div(v, set1(cap)))); });
}

static void elementary(int which, const float* x, float* out, i64 n) {
    for (i64 i = 0; i < n; i += LANES) {
        const Vec v = load_up_to(x + i, n - i);
        const Vec y = which == 0 ? exp(v) : which == 1 ? log(v) : which == 2 ? tanh(v) : which == 3 ? gelu(v) : gelu_tanh(v);
        store_up_to(out + i, y, n - i);
    }
}

}  // namespace SLIP_ISA
}  // namespace slip
