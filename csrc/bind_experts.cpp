// Owns: the Python face of mixtures of experts.
#include "bind.h"
#include "experts.h"

namespace slip {
namespace {

void run_route(Address logits, i64 rows, i64 experts, i64 chosen, bool sigmoid, i64 groups, i64 kept, i64 best, bool normed, float scale,
               Address correction, Address numbers, Address shares) {
    const Router router{experts, chosen, sigmoid, groups, kept, best, normed, scale, at<float>(correction)};
    submit({rows}, [=](const Step& s) { route(at<float>(logits), router, at<int32_t>(numbers), at<float>(shares), s.rows); });
}

void run_routed(Address x, Address numbers, Address shares, Address gathered, Address part, Address out, i64 rows, i64 chosen, i64 hidden,
                const std::vector<Tape>& experts) {
    const Routed a{at<float>(x), at<int32_t>(numbers), at<float>(shares), at<float>(gathered), at<float>(part), at<float>(out), chosen, hidden};
    submit({rows}, [=](const Step& s) { routed(a, experts, s.rows); });
}

}  // namespace

void bind_experts(nanobind::module_& m) {
    m.def("route", &run_route, Free());
    m.def("routed", &run_routed, Free());
    m.def(
        "gated_clamped",
        [](Address gate_up, Address out, float limit, float slope, i64 rows, i64 width) {
            submit({rows}, [=](const Step& s) { gated_clamped(at<float>(gate_up), at<float>(out), limit, slope, s.rows, width); });
        },
        Free());
    m.def(
        "gate_rows",
        [](Address x, Address gate, i64 rows, i64 width) {
            submit({rows}, [=](const Step& s) { gate_rows(at<float>(x), at<float>(gate), s.rows, width); });
        },
        Free());
}

}  // namespace slip
