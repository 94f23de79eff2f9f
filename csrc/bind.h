// Owns: what the files of the Python face share. Tensors arrive as addresses with sizes (tensor.data_ptr()); ops/cpu asserts shapes.
// The GIL is released around every op.
#pragma once
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

using Free = nanobind::call_guard<nanobind::gil_scoped_release>;

void bind_linear(nanobind::module_&);
void bind_cached(nanobind::module_&);
void bind_experts(nanobind::module_&);

}  // namespace slip
