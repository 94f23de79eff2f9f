// Owns: the Python face of linear layers.
#include "bind.h"

namespace slip {
namespace {

constexpr const char* NAMES[WEIGHTS] = {"fp32", "bf16", "int8", "q8_0", "int4", "int4_zero", "q4_k", "q6_k", "int4_64", "int4_128"};

Weight weight_named(const std::string& format) {
    std::string known;
    for (int i = 0; i < WEIGHTS; ++i) {
        if (format == NAMES[i]) return static_cast<Weight>(i);
        known += std::string(i ? ", " : "") + NAMES[i];
    }
    refuse("linear: unknown weight format '" + format + "'; known: " + known);
}

Weight known(int kind) {
    if (kind < 0 || kind >= WEIGHTS) refuse("linear: weight format number " + std::to_string(kind) + " is not known");
    return static_cast<Weight>(kind);
}

// span: blocks of 32 activations that share a scale, 0 for all of a row.
void run_linear(int kind, i64 span, Address x, Address weight, Address scale, Address bias, Address out, i64 rows, i64 n, i64 k, i64 stride) {
    if (span != 0 && span != 1 && span != 4) refuse("linear: span=" + std::to_string(span) + " must be 0, 1 or 4");
    Linear a{at<float>(x), at<void>(weight), at<float>(scale), at<float>(bias), at<float>(out), rows, n, k, stride};
    const Scales scales = span == 0 ? Scales::row : span == 1 ? Scales::block : Scales::four;
    submit({rows}, [a, scales, format = known(kind)](const Step& step) mutable {
        a.rows = step.rows;
        linear(format, scales, a);
    });
}

void run_gather(int kind, Address ids, Address panels, Address out, i64 rows, i64 n, i64 k) {
    submit({rows}, [=](const Step& step) {
        gather(known(kind), at<int32_t>(ids), at<void>(panels), at<float>(out), step.rows, n, k);
    });
}

}  // namespace

void bind_linear(nanobind::module_& m) {
    m.def("weight_kind", [](const std::string& format) { return static_cast<int>(weight_named(format)); });
    m.def("packed_bytes", [](const std::string& format, i64 n, i64 k) { return packed_bytes(weight_named(format), n, k); });
    m.def(
        "pack",
        [](const std::string& format, Address weight, Address scale, Address least, Address group, Address group_least, Address to, i64 n, i64 k) {
            pack(weight_named(format), {at<void>(weight), at<void>(scale), at<uint8_t>(least), at<uint16_t>(group), at<uint16_t>(group_least)}, at<void>(to), n, k);
        },
        Free());
    m.def(
        "round_weights",
        [](const std::string& format, Address weight, bool bf16, Address quants, Address scales, i64 n, i64 k) {
            round_weights({weight_named(format), at<void>(weight), bf16, at<uint8_t>(quants), at<void>(scales), k}, n);
        },
        Free());
    m.def("linear", &run_linear, Free());
    m.def("gather", &run_gather, Free());
}

}  // namespace slip
