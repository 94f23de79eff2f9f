// Owns: the argument structs of all kernels and the table of entry points that every instruction set fills.
// Must not know: how work is split over threads (drive.cpp), Python (bind.cpp). Sizes are in elements, layouts in docs/numerics.md.
#pragma once
#include <cstdint>

namespace slip {

using i64 = int64_t;
constexpr i64 PANEL = 32;      // outputs per weight panel
constexpr i64 BLOCK = 32;      // inputs of a block of whole-number weights
constexpr i64 ROW_BLOCK = 48;    // rows of a layer that pass over a panel together
constexpr i64 SEGMENT = 512;   // keys per attention segment
constexpr i64 MAX_HEAD = 512;  // largest head_dim
constexpr i64 PAIRS = 72;      // (row, head) pairs that share the reading of keys and values

enum class Weight { fp32, bf16, int8, q8_0, int4, int4_zero, q4_k, q6_k, int4_64, int4_128 };
constexpr int WEIGHTS = 10;
enum class Scales { block, four, row };  // of activations: one per block, per four blocks, per row
constexpr int SCALES = 3;

struct Linear {
    const float* x;      // [rows, k]
    const void* weight;  // packed panels
    const float* scale;  // [n], int8 only
    const float* bias;   // [n] or null
    float* out;          // [rows, n], rows `stride` apart
    i64 rows, n, k, stride;
    // integer weights only: the rows, quantised, a row block after the other, so that what passes over a panel lies together
    i64 wide = 1;             // rows of a row block: ROW_BLOCK, or all where there are fewer
    i64 blocks = 0;           // of 32 inputs, the last one filled up with zeros
    i64 span = 1, unit = 1;   // blocks that share a scale; of these, blocks whose product with a weight is one integer
    int8_t* quant = nullptr;  // [row blocks, blocks, wide, 32]
    float* step = nullptr;    // scales. [row blocks, blocks / span rounded up, wide]
    int32_t* sum = nullptr;   // what the format takes off, from a unit's quants and from its second halves'. [row blocks, blocks / unit rounded up, wide, 2]
    Weight kind = Weight::fp32;  // the format
};

struct Rounding {  // of a weight to what quant/formats stores
    Weight kind;   // int8, q8_0, int4, int4_64 or int4_128
    const void* weight;  // [n, k] fp32 or bf16
    bool bf16;
    uint8_t* quants;  // [n, k], int4: [n, k / 2]
    void* scales;     // int8: fp32 [n]; else fp16 [n, k / inputs that share one]
    i64 k;
};

enum class Kv { fp32, bf16, int8 };

struct Cache {  // one layer: [pages, kv_heads, page_size, head_dim], wherever pages and heads lie; in int8 a key or value is followed by its scale, fp32
    void *keys, *values;
    Kv kind;
    i64 pages, kv_heads, page_size, head_dim;
    i64 stride;      // bytes from one token's key to the next one's,
    i64 page, head;  // from one page's keys of a head to the next one's, and from one kv head's of a page to the next one's
    i64 place(i64 slot, i64 kv_head) const { return slot / page_size * page + kv_head * head + slot % page_size * stride; }
};

struct Attention {
    const float* qkv;  // [rows, width], q first
    float* out;        // [rows, heads * head_dim]
    Cache cache;
    const int32_t *request, *positions, *linear, *tail_start, *tail_slots, *page_table;
    i64 rows, heads, width, max_pages, window;
    float scale, cap;  // cap: 0 for none
    const float* sinks = nullptr;  // [heads]
    float* parts = nullptr;        // where segments wait to be merged: [rows, heads, segments, 2 + head_dim]; null: merged at once
    i64 segments = 0;
};

struct Piece {  // `rows` neighbouring rows of one request, as many as PAIRS allows, in segments first..last-1
    i64 row, rows, kv_head, first, last;
};

inline i64 first_key(const Attention& a, i64 row) {  // that the window lets the row see
    const i64 end = a.positions[row] + i64{1};
    return a.window > 0 && end > a.window ? end - a.window : 0;
}

struct RopeWrite {
    float* qkv;  // [rows, (heads + 2 kv_heads) * head_dim]
    const int32_t *positions, *slots;
    const float* table;  // [max_len, 2, head_dim / 2]
    Cache cache;
    i64 rows, heads;
};

enum class Activation { silu, gelu, gelu_tanh };

// `from`/`to` bound the rows (or panels, or tasks) of one call; every entry computes rows independently.
struct Kernels {
    const char* name;
    void (*embed)(const int32_t* ids, const void* table, bool bf16, float* out, i64 hidden, i64 from, i64 to);
    void (*norm)(float* x, const float* residual, const float* weight, float eps, float* out, i64 hidden, i64 from, i64 to);
    void (*rope_write)(const RopeWrite&, i64 from, i64 to);
    void (*layer_norm)(float* x, const float* residual, const float* weight, const float* bias, float eps, float* out, i64 hidden, i64 from,
                       i64 to);
    void (*norm_slices)(float* x, const float* weight, i64 start, i64 size, i64 count, float eps, i64 width, i64 from, i64 to);
    void (*gated)(const float* gate_up, float* out, i64 width, Activation, i64 from, i64 to);
    void (*activate)(float* x, i64 width, Activation, i64 from, i64 to);  // gelu or gelu_tanh
    void (*add)(float* x, const float* y, i64 width, i64 from, i64 to);
    void (*scale)(float* x, float factor, i64 width, i64 from, i64 to);
    void (*softcap)(float* x, float cap, i64 width, i64 from, i64 to);
    void (*quantise)(const Linear&, i64 from, i64 to);
    void (*round_rows)(const Rounding&, i64 from, i64 to);
    void (*linear[SCALES][WEIGHTS])(const Linear&, i64 panel, i64 panels, i64 from, i64 to);  // null where there is none
    i64 (*attention_memory)(i64 head_dim);  // floats that a piece needs
    void (*attention)(const Attention&, const Piece&, float* memory);
    void (*attention_merge)(const Attention&, i64 row);  // of what waits in `parts`
    // sampling, all on one row; z is padded with -inf to a multiple of 64
    int32_t (*argmax)(const float* logits, i64 n);
    float (*tempered)(const float* logits, i64 n, float temperature, float* z, i64 padded);  // returns max z
    void (*weights)(const float* z, i64 padded, float top, float* e);                        // e = exp(z - top)
    void (*drop_below)(const float* e, float limit, float* z, i64 padded);
    int32_t (*noisy_argmax)(const float* z, i64 padded, uint64_t seed, int32_t position, int32_t sample);
    void (*noise)(float* out, i64 padded, uint64_t seed, int32_t position, int32_t sample);
    void (*noise_words)(uint32_t* out, i64 padded, uint64_t seed, int32_t position, int32_t sample);
    void (*log_total)(const float* logits, i64 n, float* top, float* log_sum);
    i64 (*count_better)(const float* logits, i64 n, float value, i64 id);
    void (*elementary)(int which, const float* x, float* out, i64 n);  // for tests: 0 exp, 1 log, 2 tanh, 3 gelu, 4 gelu_tanh
    // probes
    float (*read)(const float* data, i64 n);
    double (*peak)(int kind, i64 rounds);  // 0 fp32, 1 bf16, 2 int8, 3 int4; returns operations done
};

const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* portable_kernels();

}  // namespace slip
