// Owns: the numbers of a round of guesses that is checked (ops/reference/rounds.py says what they are; worker/rounds.py, what for).
#pragma once
#include <cstdint>

#include "drive.h"

namespace slip {

struct LayOut {
    const int32_t *places, *noises, *seats, *table;  // [requests] each; [table_rows, pages]
    i64 table_rows, pages, page_size, spare, each, offset, passes;
    int32_t* out;  // [passes, 6, most]
    i64 most;
    const int32_t* tokens;  // [each, tokens_most], or null
    i64 tokens_most;
};

struct Walk {
    const int32_t* said;  // [requests, each]
    int32_t* tokens;      // [each, tokens_most]
    i64 tokens_most;
    int32_t *starts, *read, *turns, *picked;  // [requests] each
    i64 each;
    int32_t* history;  // [rounds, width]
    i64 rounds, width;
};

void lay_out(const LayOut&, i64 rows);
void walk(const Walk&, i64 rows);

}  // namespace slip
