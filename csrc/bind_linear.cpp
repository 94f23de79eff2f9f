// Owns: the Python face of linear layers.
#include "bind.h"

namespace slip {
namespace {

Weight weight_named(const std::string& format) {
    if (format == "fp32") return Weight::fp32;
    if (format == "bf16") return Weight::bf16;
    if (format == "int8") return Weight::int8;
    refuse("linear: unknown weight format '" + format + "'; known: fp32, bf16, int8");
}

template <Weight KIND>
void run_linear(Address x, Address weight, Address scale, Address bias, Address out, i64 rows, i64 n, i64 k) {
    Linear a{at<float>(x), at<void>(weight), at<float>(scale), at<float>(bias), at<float>(out), rows, n, k, nullptr, nullptr, nullptr, 0};
    submit({rows}, [a](const Step& step) mutable {
        a.rows = step.rows;
        linear(KIND, a);
    });
}

}  // namespace

void bind_linear(nanobind::module_& m) {
    m.def("packed_bytes", [](const std::string& format, i64 n, i64 k) { return packed_bytes(weight_named(format), n, k); });
    m.def(
        "pack",
        [](const std::string& format, Address from, Address to, i64 n, i64 k) {
            pack(weight_named(format), at<void>(from), at<void>(to), n, k);
        },
        Free());
    m.def("linear_fp32", &run_linear<Weight::fp32>, Free());
    m.def("linear_bf16", &run_linear<Weight::bf16>, Free());
    m.def("linear_int8", &run_linear<Weight::int8>, Free());
}

}  // namespace slip
