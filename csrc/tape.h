// Owns: a step recorded once as a list of ops and replayed with other numbers of rows: the CPU's counterpart of a CUDA graph.
// While a thread records, an op that is called joins the list in place of running; its pointers are bound, its counts are read from the
// Step of each replay. Must not know what any op does. What the pointers lead to must outlive the tape.
#pragma once
#include <functional>
#include <vector>

#include "drive.h"

namespace slip {

struct Step {       // what differs between replays
    i64 rows;
    i64 tails = 0;  // tail slots of all rows (ops/types.py, AttentionRows)
};

class Tape {
 public:
    void begin(i64 rows);  // this thread records a step of `rows` rows from here on
    void end();            // and from here on where it did before, if anywhere
    void add(const Step& now, std::function<void(const Step&)> op);
    void run(const Step&) const;
    i64 size() const { return static_cast<i64>(ops_.size()); }

 private:
    std::vector<std::function<void(const Step&)>> ops_;
    i64 rows_ = 0;
    Tape* outer_ = nullptr;
};

Tape*& recording();  // the tape this thread records on, or null

// Runs the op now, or records it.
template <class Op>
void submit(const Step& now, Op op) {
    if (Tape* tape = recording()) tape->add(now, std::move(op));
    else op(now);
}

}  // namespace slip
