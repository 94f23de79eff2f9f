// Owns: the entry points of mixtures of experts. Arithmetic: docs/numerics.md, section 2; the torch reference gives the same bits.
#pragma once
#include <vector>

#include "tape.h"

namespace slip {

struct Router {  // arch/spec.py, RouterSpec
    i64 experts, chosen;
    bool sigmoid;  // else softmax
    i64 groups, kept, best;
    bool normed;
    float scale;
    const float* correction;  // [experts] or null
};

struct Routed {
    const float* x;          // [rows, hidden]
    const int32_t* numbers;  // experts of each row, ascending. [rows, chosen]
    const float* shares;     // [rows, chosen]
    float *gathered, *part;  // what an expert reads and writes. [rows, hidden]
    float* out;              // [rows, hidden]
    i64 chosen, hidden;
};

void route(const float* logits, const Router&, int32_t* numbers, float* shares, i64 rows);
// Sums over each row's experts what their tapes make of it. A tape reads as many rows of `gathered` as it is given, and writes `part`.
void routed(const Routed&, const std::vector<Tape>& experts, i64 rows);
void gated_clamped(const float* gate_up, float* out, float limit, float slope, i64 rows, i64 width);
void gate_rows(float* x, const float* gate, i64 rows, i64 width);

}  // namespace slip
