// Owns: the worker threads. One parallel region at a time; the caller works too. Must not know what the tasks do.
#pragma once
#include <cstdint>

namespace slip {

int threads();
void set_threads(int count);  // 1..256, the caller included
void run_tasks(int64_t tasks, void (*task)(void* context, int64_t index), void* context);

// Calls body(i) for i in 0..tasks-1, in any order, on all threads.
template <class Body>
void parallel(int64_t tasks, Body body) {
    run_tasks(tasks, [](void* context, int64_t index) { (*static_cast<Body*>(context))(index); }, &body);
}

}  // namespace slip
