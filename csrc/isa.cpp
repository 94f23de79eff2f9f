// One instruction set: compiled once per set with SLIP_ISA naming the namespace (and SLIP_AVX512 or SLIP_AVX2 the flavour of vec.h).
// Everything it instantiates lives in that namespace, so no code of one set can be linked into another.
#include "attention.h"
#include "elementwise.h"
#include "linear_int.h"
#include "peak.h"
#include "round.h"
#include "sample.h"

#define SLIP_TEXT_OF(x) #x
#define SLIP_TEXT(x) SLIP_TEXT_OF(x)
#define SLIP_JOIN_OF(a, b) a##b
#define SLIP_JOIN(a, b) SLIP_JOIN_OF(a, b)

namespace slip {

const Kernels* SLIP_JOIN(SLIP_ISA, _kernels)() {
    namespace isa = SLIP_ISA;
    static const Kernels table = {
        SLIP_TEXT(SLIP_ISA), isa::embed, isa::norm, isa::rope_write, isa::layer_norm, isa::norm_slices,
        isa::gated, isa::activate, isa::add, isa::scale, isa::softcap, isa::quantise, isa::round_rows,
        {{isa::linear_fp32, isa::linear_bf16, isa::linear_int<isa::Int8>, isa::linear_int<isa::Q8_0>, isa::linear_int<isa::Int4>,
          isa::linear_int<isa::Int4Zero>, isa::linear_int<isa::Q4K>, isa::linear_int<isa::Q6K>,
          isa::linear_int<isa::Int4By<2>>, isa::linear_int<isa::Int4By<4>>},
         {nullptr, nullptr, isa::linear_int<isa::Int8, Scales::four>, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,
          isa::linear_int<isa::Int4By<4>, Scales::four>},
         {nullptr, nullptr, isa::linear_int<isa::Int8, Scales::row>, nullptr, isa::linear_int<isa::Int4, Scales::row>, nullptr, nullptr,
          nullptr, isa::linear_int<isa::Int4By<2>, Scales::row>, isa::linear_int<isa::Int4By<4>, Scales::row>}},
        isa::attention_memory, isa::attention, isa::attention_merge,
        isa::argmax, isa::tempered, isa::weights, isa::drop_below, isa::noisy_argmax, isa::noise, isa::noise_words,
        isa::log_total, isa::count_better, isa::elementary, isa::read, isa::peak,
    };
    return &table;
}

}  // namespace slip
