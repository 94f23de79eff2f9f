#include "rounds.h"

#include <stdexcept>
#include <string>

namespace slip {

void lay_out(const LayOut& a, i64 rows) {
    for (i64 i = 0; i < rows / a.each; ++i) {
        if (a.seats[i] < 0 || a.seats[i] >= a.table_rows)
            throw std::out_of_range("lay_out: seats[" + std::to_string(i) + "] = " + std::to_string(a.seats[i]) + " is none of " +
                                    std::to_string(a.table_rows));
        const int32_t* own = a.table + a.seats[i] * a.pages;
        for (i64 pass = 0; pass < a.passes; ++pass)
            for (i64 j = 0; j < a.each; ++j) {
                const i64 place = a.places[i] + a.offset + pass + j;
                const bool asked = a.places[i] >= 0 && place >= 0 && place < a.pages * a.page_size;
                int32_t* at = a.out + pass * 6 * a.most + i * a.each + j;
                if (a.tokens) at[0] = a.tokens[j * a.tokens_most + i];
                at[a.most] = static_cast<int32_t>(asked ? place : 0);
                at[2 * a.most] = static_cast<int32_t>(asked ? own[place / a.page_size] * a.page_size + place % a.page_size : a.spare);
                at[3 * a.most] = asked ? a.seats[i] : 0;
                at[4 * a.most] = static_cast<int32_t>(asked ? place + 1 : 1);
                at[5 * a.most] = static_cast<int32_t>(asked ? a.noises[i] + 1 + pass + j : 0);
            }
    }
}

void walk(const Walk& a, i64 rows) {
    for (i64 i = 0; i < rows / a.each; ++i) {
        const int32_t* said = a.said + i * a.each;
        i64 right = 0;
        while (right < a.each - 1 && said[right] == a.tokens[(right + 1) * a.tokens_most + i]) ++right;
        a.picked[i] = static_cast<int32_t>(i * a.each + right);
        if (a.starts[i] < 0) continue;
        const i64 turn = a.turns[i]++;
        if (turn < 0 || turn >= a.rounds)
            throw std::out_of_range("walk: turns[" + std::to_string(i) + "] = " + std::to_string(turn) + " is none of " +
                                    std::to_string(a.rounds));
        int32_t* line = a.history + turn * a.width + i * (a.each + 1);
        line[0] = static_cast<int32_t>(right + 1);
        for (i64 j = 0; j < a.each; ++j) line[1 + j] = said[j];
        a.tokens[i] = said[right];
        a.starts[i] += static_cast<int32_t>(right + 1);
        a.read[i] += static_cast<int32_t>(right + 1);
    }
}

}  // namespace slip
