// Owns: one entry point per op: checks what would read or write out of range, splits the work over threads, calls the kernels of the active
// set. Errors: std::invalid_argument (a size), std::out_of_range (an index); both name the op, the value and the limit.
#pragma once
#include <string>
#include <vector>

#include "kernels.h"

namespace slip {

const Kernels& active();
std::vector<std::string> usable_isas();  // best first
void force_isa(const std::string& name);
[[noreturn]] void refuse(const std::string& message);

struct SampleRows {
    const float* temperature;
    const int32_t* top_k;
    const float *top_p, *min_p;
    const int64_t* seed;  // bits of a u64
    const int32_t *position, *sample;
};

void embed(const int32_t* ids, const void* table, bool bf16, float* out, i64 rows, i64 vocab, i64 hidden);
void norm(float* x, const float* residual, const float* weight, float eps, float* out, i64 rows, i64 hidden);
void rope_write(const RopeWrite&, i64 max_len);
void attention(Attention, i64 requests, i64 tails);
void layer_norm(float* x, const float* residual, const float* weight, const float* bias, float eps, float* out, i64 rows, i64 hidden);
void norm_slices(float* x, const float* weight, i64 start, i64 size, i64 count, float eps, i64 rows, i64 width);  // in place
void gated(const float* gate_up, float* out, i64 rows, i64 width, Activation);
void activate(float* x, i64 rows, i64 width, Activation);  // in place, as are the next three
void add(float* x, const float* y, i64 rows, i64 width);
void scale(float* x, float factor, i64 rows, i64 width);
void softcap(float* x, float cap, i64 rows, i64 width);
// out[r, c] = some[r, places[c]], -inf where that is not one of `count`.
void spread(const float* some, const int32_t* places, float* out, i64 rows, i64 count, i64 width);
void round_weights(const Rounding&, i64 n);
struct Stored {  // what a format packs, as quant/formats stores it; k inputs, 32 of them a block, 256 of them a group of blocks
    const void* weight;     // fp32, bf16, int8, q8_0, q6_k: [n, k]; int4* and q4_k: [n, k / 2], 16 bytes a block, inputs i and i + 16 in one
    const void* scale;      // q8_0, int4, int4_zero: fp16 [n, k / 32], int4_N: [n, k / N]; q4_k: u8 [n, k / 32]; q6_k: int8 [n, k / 16]
    const uint8_t* least;   // int4_zero: zeros, q4_k: leasts. u8 [n, k / 32]
    const uint16_t *group, *group_least;  // q4_k, q6_k: d; q4_k: dmin. fp16 [n, k / 256]
};
struct Sizes {            // of packed integer weights of 32 outputs
    i64 block, head;      // bytes of a block, and of what stands before each group of blocks
    i64 group = 1;        // blocks of a group
    i64 shared = 1;       // blocks that share what a product is worth, 0 for all
};
Sizes sizes_of(Weight);
i64 packed_bytes(Weight, i64 n, i64 k);
void pack(Weight, const Stored&, void* to, i64 n, i64 k);
void linear(Weight, Scales of_activations, Linear);
void gather(Weight, const int32_t* ids, const void* panels, float* out, i64 rows, i64 n, i64 k);  // rows of a packed weight
void sample(const float* logits, i64 rows, i64 vocab, const SampleRows&, int32_t* out);
void logprobs(const float* logits, i64 rows, i64 vocab, const int32_t* tokens, i64 top, float* logprob, int32_t* rank, int32_t* ids,
              float* values);
// Of all layers' keys and values: `planes` caches, each `plane` bytes behind the one before; cache.keys is the first.
void move(const Cache& cache, i64 planes, i64 plane, const int32_t* source, const int32_t* target, i64 n);

// select.cpp: sets z to -inf outside top_k (0: all) and then top_p (1: all); top = max z, e = exp(z - top), read only where top_p < 1. n: a multiple of 64.
void keep_top(float* z, const float* e, i64 n, float top, i64 top_k, float top_p);
void likeliest(const float* logits, i64 n, i64 top, int32_t* ids);  // order: (logit descending, id ascending)

// probe.cpp
double read_bandwidth(i64 bytes, int threads, double seconds);  // bytes per second
double peak(int kind, int threads, double seconds);             // operations per second; 0 fp32, 1 bf16, 2 int8, 3 int4
void advise_huge(void* start, i64 bytes);                       // 2 MiB pages for what lies inside, where the system can

}  // namespace slip
