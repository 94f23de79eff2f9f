// Owns: rounding of weights and their packing into panels of 32 outputs, once, at load. Layouts: docs/numerics.md, "Packing"; who reads them: linear_int.h.
#include <cstring>

#include "split.h"

namespace slip {
namespace {

bool is_int4(Weight kind) { return kind == Weight::int4 || kind == Weight::int4_64 || kind == Weight::int4_128; }

i64 blocks_of(i64 k) { return (k + BLOCK - 1) / BLOCK; }

// A panel's rows: `count` of them are there, what is missing counts as `nothing`.
struct Rows {
    i64 first, count;
};

// out[c] = table[first + c][column] for the 32 outputs of a panel, table [n, width].
template <class T>
void column(const void* table, i64 width, i64 at, Rows rows, uint8_t* out) {
    T values[PANEL] = {};
    for (i64 c = 0; c < rows.count; ++c) values[c] = static_cast<const T*>(table)[(rows.first + c) * width + at];
    std::memcpy(out, values, sizeof values);
}

void bytes(const int8_t* w, i64 k, i64 block, Rows rows, uint8_t* out) {  // [8][32][4] of q + 128
    for (i64 i = 0; i < BLOCK; ++i)
        for (i64 c = 0; c < PANEL; ++c) {
            const i64 at = block * BLOCK + i;
            out[i / 4 * PANEL * 4 + c * 4 + i % 4] = static_cast<uint8_t>(c < rows.count && at < k ? w[(rows.first + c) * k + at] + 128 : 128);
        }
}

void nibbles(const uint8_t* w, i64 blocks, i64 block, Rows rows, uint8_t nothing, uint8_t* out) {  // [4][32][4], two inputs in each
    for (i64 c = 0; c < PANEL; ++c)
        for (i64 j = 0; j < BLOCK / 8; ++j) {
            uint8_t* to = out + j * PANEL * 4 + c * 4;
            if (c < rows.count) std::memcpy(to, w + ((rows.first + c) * blocks + block) * BLOCK / 2 + 4 * j, 4);
            else std::memset(to, nothing, 4);
        }
}

void pack_block(Weight kind, const Stored& from, uint8_t* out, i64 k, i64 block, Rows rows) {
    const i64 blocks = blocks_of(k);
    const auto* quants = static_cast<const uint8_t*>(from.weight);
    switch (kind) {
        case Weight::q8_0:
        case Weight::int4_zero:
            column<uint16_t>(from.scale, blocks, block, rows, out);
            out += 2 * PANEL;
            break;
        case Weight::q4_k: column<uint8_t>(from.scale, blocks, block, rows, out), out += PANEL; break;
        case Weight::q6_k:
            for (i64 half = 0; half < 2; ++half) column<int8_t>(from.scale, 2 * blocks, 2 * block + half, rows, out), out += PANEL;
            break;
        default: break;
    }
    if (kind == Weight::int4_zero || kind == Weight::q4_k) column<uint8_t>(from.least, blocks, block, rows, out), out += PANEL;
    if (is_int4(kind)) nibbles(quants, blocks, block, rows, 0x88, out);
    else if (kind == Weight::int4_zero || kind == Weight::q4_k) nibbles(quants, blocks, block, rows, 0, out);
    else bytes(static_cast<const int8_t*>(from.weight), k, block, rows, out);
}

void pack_floats(Weight kind, const void* from, void* to, i64 k, Rows rows) {
    if (kind == Weight::fp32) {
        const float* w = static_cast<const float*>(from) + rows.first * k;
        float* out = static_cast<float*>(to) + rows.first * k;
        for (i64 i = 0; i < k; ++i)
            for (i64 c = 0; c < PANEL; ++c) out[i * PANEL + c] = c < rows.count ? w[c * k + i] : 0.f;
    } else {  // word l of a step: output l, then output l + 16
        const uint16_t* w = static_cast<const uint16_t*>(from) + rows.first * k;
        uint16_t* out = static_cast<uint16_t*>(to) + rows.first * k;
        for (i64 i = 0; i < k; ++i)
            for (i64 c = 0; c < PANEL; ++c) out[i * PANEL + c % 16 * 2 + c / 16] = c < rows.count ? w[c * k + i] : 0;
    }
}

i64 panel_bytes(Weight kind, i64 k) {
    if (kind == Weight::fp32 || kind == Weight::bf16) return PANEL * k * (kind == Weight::fp32 ? 4 : 2);
    const Sizes sizes = sizes_of(kind);
    return blocks_of(k) * sizes.block + blocks_of(k) / sizes.group * sizes.head;
}

void pack_integers(Weight kind, const Stored& from, uint8_t* out, i64 k, Rows rows) {
    const Sizes sizes = sizes_of(kind);
    for (i64 b = 0; b < blocks_of(k); ++b) {
        if (sizes.head && b % sizes.group == 0) {
            const i64 groups = blocks_of(k) / sizes.group, group = b / sizes.group;
            column<uint16_t>(is_int4(kind) ? from.scale : from.group, groups, group, rows, out);
            if (kind == Weight::q4_k) column<uint16_t>(from.group_least, groups, group, rows, out + 2 * PANEL);
            out += sizes.head;
        }
        pack_block(kind, from, out, k, b, rows);
        out += sizes.block;
    }
}

}  // namespace

Sizes sizes_of(Weight kind) {
    constexpr i64 NIBBLES = BLOCK * PANEL / 2, BYTES = BLOCK * PANEL;
    switch (kind) {
        case Weight::int8: return {BYTES, 0, 1, 0};
        case Weight::q8_0: return {2 * PANEL + BYTES, 0};
        case Weight::int4: return {NIBBLES, 2 * PANEL};
        case Weight::int4_64: return {NIBBLES, 2 * PANEL, 2, 2};
        case Weight::int4_128: return {NIBBLES, 2 * PANEL, 4, 4};
        case Weight::int4_zero: return {3 * PANEL + NIBBLES, 0};
        case Weight::q4_k: return {2 * PANEL + NIBBLES, 4 * PANEL, 8};
        default: return {2 * PANEL + BYTES, 2 * PANEL, 8};  // q6_k
    }
}

void round_weights(const Rounding& r, i64 n) {
    if (!is_int4(r.kind) && r.kind != Weight::q8_0 && r.kind != Weight::int8) refuse("round: weights can be rounded to int8, q8_0 and int4");
    const i64 unit = sizes_of(r.kind).shared * BLOCK;
    if (unit && r.k % unit) refuse("round: k=" + std::to_string(r.k) + " must be a multiple of " + std::to_string(unit));
    const Kernels& kernels = active();
    over_rows(n, 8. * static_cast<double>(r.k), [&](i64 from, i64 to) { kernels.round_rows(r, from, to); });
}

i64 packed_bytes(Weight kind, i64 n, i64 k) { return (n + PANEL - 1) / PANEL * panel_bytes(kind, k); }

void pack(Weight kind, const Stored& from, void* to, i64 n, i64 k) {
    const bool floats = kind == Weight::fp32 || kind == Weight::bf16;
    const i64 unit = floats || kind == Weight::int8 ? 1 : sizes_of(kind).group * BLOCK;
    if (k % unit) refuse("pack: k=" + std::to_string(k) + " must be a multiple of " + std::to_string(unit) + " in this format");
    advise_huge(to, packed_bytes(kind, n, k));
    parallel((n + PANEL - 1) / PANEL, [&](i64 panel) {
        const i64 first = panel * PANEL;
        const Rows rows{first, n - first < PANEL ? n - first : PANEL};
        if (floats) pack_floats(kind, from.weight, to, k, rows);
        else pack_integers(kind, from, static_cast<uint8_t*>(to) + panel * panel_bytes(kind, k), k, rows);
    });
}

}  // namespace slip
