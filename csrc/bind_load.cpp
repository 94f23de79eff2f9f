// Owns: the Python face of load tests.
#include <nanobind/stl/tuple.h>

#include "bind.h"
#include "load.h"

namespace nb = nanobind;

namespace slip {
namespace {

using Prepared = std::tuple<nb::bytes, double, i64>;

// Signals are seen a few times a second, so that Ctrl-C ends a run.
void heed_signals() {
    nb::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

Volley run_fire(const Aim& aim, const std::vector<Prepared>& prepared) {
    std::vector<Shot> shots;
    for (const auto& [request, due, after] : prepared) shots.push_back({std::string(request.c_str(), request.size()), due, after});
    nb::gil_scoped_release released;
    return fire(aim, shots, heed_signals);
}

nb::bytes bytes(const std::string& text) { return nb::bytes(text.data(), text.size()); }

}  // namespace

void bind_load(nb::module_& m) {
    nb::class_<Answer>(m, "Answer", "One HTTP answer as its bytes come in, and when each of its events was complete.")
        .def(nb::init<>())
        .def(
            "feed", [](Answer& answer, nb::bytes data, double now) { return answer.feed({data.c_str(), data.size()}, now); }, nb::arg("data"),
            nb::arg("now"))
        .def("close", &Answer::close)
        .def_prop_ro("begun", &Answer::begun)
        .def_prop_ro("complete", &Answer::complete)
        .def_ro("status", &Answer::status)
        .def_ro("keep", &Answer::keep)
        .def_ro("times", &Answer::times)
        .def_prop_ro("last", [](const Answer& answer) { return bytes(answer.last); })
        .def_prop_ro("text", [](const Answer& answer) { return bytes(answer.text); })
        .def_prop_ro("wrong", [](const Answer& answer) { return bytes(answer.wrong); });
    nb::class_<Report>(m, "Report", "What became of one request; seconds after the beginning.")
        .def_ro("sent", &Report::sent)
        .def_ro("ended", &Report::ended)
        .def_ro("answer", &Report::answer)
        .def_prop_ro("error", [](const Report& report) { return bytes(report.error); });
    nb::class_<Volley>(m, "Volley", "What became of all requests.")
        .def_ro("reports", &Volley::reports)
        .def_ro("seconds", &Volley::seconds)
        .def_ro("cpu", &Volley::cpu);
    m.def(
        "fire",
        [](const std::string& host, int port, int clients, double patience, double limit, const std::vector<Prepared>& shots) {
            return run_fire({host, port, clients, patience, limit}, shots);
        },
        nb::arg("host"), nb::arg("port"), nb::arg("clients"), nb::arg("patience"), nb::arg("limit"), nb::arg("shots"),
        "Sends (request, due, after) to one address, and times what comes back; see load.h.");
}

}  // namespace slip
