// Owns: what every op's entry point needs: how work is cut into tasks, a thread's scratch memory, refusals of indices out of range.
#pragma once
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#include "drive.h"
#include "threads.h"

namespace slip {

constexpr double SMALL = 60e3;  // multiply-adds (or elements touched) below which another thread costs more than it brings

// A thread's own growing block of memory, 64-byte aligned.
class Scratch {
 public:
    ~Scratch() { std::free(data_); }
    char* take(i64 bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = (bytes + 4095) / 4096 * 4096;
            data_ = static_cast<char*>(std::aligned_alloc(64, size_));
            if (!data_) throw std::bad_alloc();
        }
        return data_;
    }

 private:
    char* data_ = nullptr;
    i64 size_ = 0;
};
inline thread_local Scratch scratch;

// How many tasks `units` of `cost` each are worth.
inline i64 tasks_for(i64 units, double cost) {
    const i64 worth = static_cast<i64>(static_cast<double>(units) * cost / SMALL), most = threads() * i64{8};
    const i64 tasks = worth < most ? worth : most;
    return tasks < 1 ? 1 : tasks < units ? tasks : units;
}

template <class Body>
void over_rows(i64 rows, double cost, Body body) {
    const i64 tasks = tasks_for(rows, cost);
    parallel(tasks, [&](i64 t) { body(rows * t / tasks, rows * (t + 1) / tasks); });
}

[[noreturn]] inline void outside(const char* op, const char* what, i64 index, i64 value, i64 limit) {
    throw std::out_of_range(std::string(op) + ": " + what + "[" + std::to_string(index) + "] = " + std::to_string(value) +
                            " is outside 0.." + std::to_string(limit - 1));
}
inline void within(const char* op, const char* what, const int32_t* values, i64 n, i64 limit) {
    for (i64 i = 0; i < n; ++i)
        if (values[i] < 0 || values[i] >= limit) outside(op, what, i, values[i], limit);
}

}  // namespace slip
