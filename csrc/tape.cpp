#include "tape.h"

namespace slip {

Tape*& recording() {
    static thread_local Tape* tape = nullptr;
    return tape;
}

void Tape::begin(i64 rows) {
    for (const Tape* tape = recording(); tape; tape = tape->outer_)
        if (tape == this) refuse("tape: this thread records on it already");
    ops_.clear();
    outer_ = recording();
    rows_ = rows;
    recording() = this;
}

void Tape::end() {
    if (recording() != this) refuse("tape: this thread does not record on it");
    recording() = outer_;
    outer_ = nullptr;
}

void Tape::add(const Step& now, std::function<void(const Step&)> op) {
    if (now.rows != rows_)
        refuse("tape: an op of " + std::to_string(now.rows) + " rows in a step of " + std::to_string(rows_) +
               " rows; all ops of a recorded step must have its rows");
    ops_.push_back(std::move(op));
}

void Tape::run(const Step& step) const {
    for (const auto& op : ops_) op(step);
}

}  // namespace slip
