// Owns: what the files of the Python face share. Tensors arrive as addresses with sizes (tensor.data_ptr()); ops/cpu asserts shapes.
// The GIL is released around every op, and the time spent there is counted, so that what is left of a step is known to be Python's.
#pragma once
#include <chrono>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "tape.h"

namespace slip {

using Address = uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

inline double& seconds_in_ops() {  // of this thread, since it began
    static thread_local double seconds = 0;
    return seconds;
}

struct Away {
    using Clock = std::chrono::steady_clock;
    nanobind::gil_scoped_release released;
    Clock::time_point began = Clock::now();
    ~Away() { seconds_in_ops() += std::chrono::duration<double>(Clock::now() - began).count(); }  // before the GIL is waited for
};

using Free = nanobind::call_guard<Away>;

void bind_linear(nanobind::module_&);
void bind_cached(nanobind::module_&);
void bind_load(nanobind::module_&);
void bind_experts(nanobind::module_&);

}  // namespace slip
