// Owns: the Python face of the module, of its row-wise ops and of sampling.
#include "bind.h"
#include "rounds.h"
#include "threads.h"

namespace nb = nanobind;
using namespace slip;

namespace {

template <Activation KIND>
void run_gated(Address gate_up, Address out, i64 rows, i64 width) {
    submit({rows}, [=](const Step& s) { gated(at<float>(gate_up), at<float>(out), s.rows, width, KIND); });
}

template <Activation KIND>
void run_activate(Address x, i64 rows, i64 width) {
    submit({rows}, [=](const Step& s) { activate(at<float>(x), s.rows, width, KIND); });
}

void run_sample(Address logits, i64 rows, i64 vocab, Address temperature, Address top_k, Address top_p, Address min_p, Address seed,
                Address position, Address index, Address out) {
    const SampleRows choices{at<float>(temperature), at<int32_t>(top_k), at<float>(top_p), at<float>(min_p), at<int64_t>(seed),
                             at<int32_t>(position), at<int32_t>(index)};
    submit({rows}, [=](const Step& s) { sample(at<float>(logits), s.rows, vocab, choices, at<int32_t>(out)); });
}

void make_noise(Address out, i64 padded, uint64_t seed, i64 position, i64 index, bool words) {
    if (padded % 64) refuse("noise: n=" + std::to_string(padded) + " must be a multiple of 64");
    if (words) active().noise_words(at<uint32_t>(out), padded, seed, static_cast<int32_t>(position), static_cast<int32_t>(index));
    else active().noise(at<float>(out), padded, seed, static_cast<int32_t>(position), static_cast<int32_t>(index));
}

void set_thread_count(int count) {
    if (count < 1 || count > 256) refuse("set_threads: " + std::to_string(count) + " must be between 1 and 256");
    set_threads(count);
}

}  // namespace

NB_MODULE(_native, m) {
    const Free free;
    m.doc() = "C++ kernels of Slipstream; see docs/numerics.md for their arithmetic and ops/cpu for the checked face.";
    m.def("isa", [] { return std::string(active().name); });
    m.def("isas", &usable_isas, "Instruction sets usable here, best first.");
    m.def("force_isa", &force_isa, nb::arg("name"), "For tests: all sets give the same bits.");
    m.def("threads", &threads);
    m.def("seconds", [] { return seconds_in_ops(); }, "Time that the calling thread has spent in ops.");
    m.def("set_threads", &set_thread_count, nb::arg("count"), free);
    m.def(
        "embed",
        [](Address ids, Address table, bool bf16, Address out, i64 rows, i64 vocab, i64 hidden) {
            submit({rows}, [=](const Step& s) { embed(at<int32_t>(ids), at<void>(table), bf16, at<float>(out), s.rows, vocab, hidden); });
        },
        free);
    m.def(
        "norm",
        [](Address x, Address residual, Address weight, float eps, Address out, i64 rows, i64 hidden) {
            submit({rows}, [=](const Step& s) {
                norm(at<float>(x), at<float>(residual), at<float>(weight), eps, at<float>(out), s.rows, hidden);
            });
        },
        free);
    m.def(
        "layer_norm",
        [](Address x, Address residual, Address weight, Address bias, float eps, Address out, i64 rows, i64 hidden) {
            submit({rows}, [=](const Step& s) {
                layer_norm(at<float>(x), at<float>(residual), at<float>(weight), at<float>(bias), eps, at<float>(out), s.rows, hidden);
            });
        },
        free);
    m.def(
        "norm_slices",
        [](Address x, Address weight, i64 start, i64 size, i64 count, float eps, i64 rows, i64 width) {
            submit({rows}, [=](const Step& s) {
                norm_slices(at<float>(x), at<float>(weight), start, size, count, eps, s.rows, width);
            });
        },
        free);
    m.def("gated", &run_gated<Activation::silu>, free);
    m.def("gated_gelu", &run_gated<Activation::gelu>, free);
    m.def("gated_gelu_tanh", &run_gated<Activation::gelu_tanh>, free);
    m.def("gelu", &run_activate<Activation::gelu>, free);
    m.def("gelu_tanh", &run_activate<Activation::gelu_tanh>, free);
    m.def("add", [](Address x, Address y, i64 rows, i64 width) { submit({rows}, [=](const Step& s) { add(at<float>(x), at<float>(y), s.rows, width); }); }, free);
    m.def("scale", [](Address x, float factor, i64 rows, i64 width) { submit({rows}, [=](const Step& s) { scale(at<float>(x), factor, s.rows, width); }); }, free);
    m.def("softcap", [](Address x, float cap, i64 rows, i64 width) { submit({rows}, [=](const Step& s) { softcap(at<float>(x), cap, s.rows, width); }); }, free);
    m.def(
        "spread",
        [](Address some, Address places, Address out, i64 rows, i64 count, i64 width) {
            submit({rows}, [=](const Step& s) { spread(at<float>(some), at<int32_t>(places), at<float>(out), s.rows, count, width); });
        },
        free);
    m.def(
        "lay_out",
        [](i64 rows, Address places, Address noises, Address seats, Address table, i64 table_rows, i64 pages, i64 page_size, i64 spare,
           i64 each, i64 offset, i64 passes, Address out, i64 most, Address tokens, i64 tokens_most) {
            const LayOut a{at<int32_t>(places), at<int32_t>(noises), at<int32_t>(seats), at<int32_t>(table), table_rows, pages, page_size,
                           spare, each, offset, passes, at<int32_t>(out), most, at<int32_t>(tokens), tokens_most};
            submit({rows}, [a](const Step& s) { lay_out(a, s.rows); });
        },
        free);
    m.def(
        "walk",
        [](i64 rows, Address said, Address tokens, i64 tokens_most, Address starts, Address read, Address turns, Address picked, i64 each,
           Address history, i64 rounds, i64 width) {
            const Walk a{at<int32_t>(said), at<int32_t>(tokens), tokens_most, at<int32_t>(starts), at<int32_t>(read), at<int32_t>(turns),
                         at<int32_t>(picked), each, at<int32_t>(history), rounds, width};
            submit({rows}, [a](const Step& s) { walk(a, s.rows); });
        },
        free);
    bind_linear(m);
    bind_cached(m);
    bind_load(m);
    m.def("sample", &run_sample, free);
    m.def(
        "logprobs",
        [](Address logits, i64 rows, i64 vocab, Address tokens, i64 top, Address logprob, Address rank, Address ids, Address values) {
            logprobs(at<float>(logits), rows, vocab, at<int32_t>(tokens), top, at<float>(logprob), at<int32_t>(rank), at<int32_t>(ids),
                     at<float>(values));
        },
        free);
    nb::class_<Tape>(m, "Tape", "A step recorded once, replayed with other numbers of rows.")
        .def(nb::init<>())
        .def("begin", &Tape::begin, nb::arg("rows"))
        .def("end", &Tape::end)
        .def("run", [](const Tape& tape, i64 rows, i64 tails) { tape.run({rows, tails}); }, nb::arg("rows"), nb::arg("tails") = 0, free)
        .def("__len__", &Tape::size);
    bind_experts(m);  // which takes tapes
    m.def("recording", [] { return recording() != nullptr; }, "Whether this thread's ops join a tape in place of running.");
    m.def("noise", &make_noise, nb::arg("out"), nb::arg("n"), nb::arg("seed"), nb::arg("position"), nb::arg("sample"),
          nb::arg("words") = false, "Gumbel noise (or its Philox words) of ids 0..n-1.");
    m.def(
        "elementary", [](int which, Address x, Address out, i64 n) { active().elementary(which, at<float>(x), at<float>(out), n); },
        "exp (0), log (1), tanh (2), gelu (3) or gelu_tanh (4) of n numbers.");
    m.def("read_bandwidth", &read_bandwidth, nb::arg("bytes"), nb::arg("threads"), nb::arg("seconds"), free);
    m.def("peak", &peak, nb::arg("kind"), nb::arg("threads"), nb::arg("seconds"), free);
}
