// Owns: fp16 to fp32, one number at a time, as the machine's own instruction does it. Internal linkage, so that no code of one
// instruction set can be linked into another.
#pragma once
#include <cstdint>
#include <cstring>

namespace slip {

static inline float of_half(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16, size = h & 0x7fff;
    const float small = static_cast<float>(size) * (1.f / 16777216);  // below 2^-14 a number is so many times 2^-24
    uint32_t bits = (size << 13) + 0x38000000;
    if (size < 0x400) std::memcpy(&bits, &small, 4);
    if (size >= 0x7c00) bits = size << 13 | (size > 0x7c00 ? 0x7fc00000 : 0x7f800000);
    bits |= sign;
    float out;
    std::memcpy(&out, &bits, 4);
    return out;
}

}  // namespace slip
