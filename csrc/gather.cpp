// Owns: rows of a packed weight, made plain: an embedding table that is kept in one piece with the head. The numbers are those that
// quant/formats unpacks: one rounding where a weight is a product, two where something is taken off it.
#include "half.h"
#include "split.h"

namespace slip {
namespace {

float half(const uint8_t* p) {
    uint16_t h;
    std::memcpy(&h, p, 2);
    return of_half(h);
}

// Whole numbers of output c of a block: bytes less 128, or nibbles as they are.
void whole_bytes(const uint8_t* q, i64 c, int* out) {
    for (i64 i = 0; i < BLOCK; ++i) out[i] = q[i / 4 * PANEL * 4 + c * 4 + i % 4] - 128;
}
void whole_nibbles(const uint8_t* q, i64 c, int* out) {
    for (i64 i = 0; i < BLOCK / 2; ++i) {
        const uint8_t both = q[i / 4 * PANEL * 4 + c * 4 + i % 4];
        out[i] = both & 15;
        out[i + BLOCK / 2] = both >> 4;
    }
}

// The 32 weights of output c of a block. `head` is what its group shares, `at` the block.
void weights(Weight kind, const uint8_t* head, const uint8_t* at, i64 c, float* out) {
    int q[BLOCK];
    switch (kind) {
        case Weight::q8_0:
            whole_bytes(at + 2 * PANEL, c, q);
            for (i64 i = 0; i < BLOCK; ++i) out[i] = half(at + 2 * c) * static_cast<float>(q[i]);
            break;
        case Weight::int4:
        case Weight::int4_64:
        case Weight::int4_128:
            whole_nibbles(at, c, q);
            for (i64 i = 0; i < BLOCK; ++i) out[i] = half(head + 2 * c) * static_cast<float>(q[i] - 8);
            break;
        case Weight::int4_zero:
            whole_nibbles(at + 3 * PANEL, c, q);
            for (i64 i = 0; i < BLOCK; ++i) out[i] = half(at + 2 * c) * static_cast<float>(q[i] - at[2 * PANEL + c]);
            break;
        case Weight::q4_k: {
            whole_nibbles(at + 2 * PANEL, c, q);
            const float step = half(head + 2 * c) * at[c], least = half(head + 2 * PANEL + 2 * c) * at[PANEL + c];
            for (i64 i = 0; i < BLOCK; ++i) out[i] = step * static_cast<float>(q[i]) - least;
            break;
        }
        default:  // q6_k
            whole_bytes(at + 2 * PANEL, c, q);
            for (i64 i = 0; i < BLOCK; ++i) {
                const float step = half(head + 2 * c) * static_cast<float>(static_cast<int8_t>(at[i / 16 * PANEL + c]));
                out[i] = step * static_cast<float>(q[i]);
            }
    }
}

}  // namespace

void gather(Weight kind, const int32_t* ids, const void* panels, float* out, i64 rows, i64 n, i64 k) {
    if (kind == Weight::fp32 || kind == Weight::bf16 || kind == Weight::int8) refuse("gather: this format has no blocks with scales");
    within("gather", "ids", ids, rows, n);
    const Sizes sizes = sizes_of(kind);
    const i64 bytes = packed_bytes(kind, PANEL, k);
    over_rows(rows, 8. * static_cast<double>(k), [&](i64 from, i64 to) {
        for (i64 r = from; r < to; ++r) {
            const uint8_t* head = static_cast<const uint8_t*>(panels) + ids[r] / PANEL * bytes;
            for (i64 b = 0; b < k / BLOCK; ++b) {
                const i64 place = b % sizes.group;
                weights(kind, head, head + sizes.head + place * sizes.block, ids[r] % PANEL, out + r * k + b * BLOCK);
                if (place == sizes.group - 1) head += sizes.head + sizes.group * sizes.block;
            }
        }
    });
}

}  // namespace slip
