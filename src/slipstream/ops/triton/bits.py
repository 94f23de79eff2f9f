"""Codes of weights as what tensor cores multiply, by bit tricks in registers: bf16 of 4, 6 or 8 bits, e4m3 of 4.

Owns the machine instructions, and the same for Triton's interpreter. Must not know where codes come from (packing.py) or what is done
with the numbers.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# Pairs of codes in a register, as a compiler does not see it: a shift and a mask for two, and for bytes a difference.
_NIBBLES = "{ .reg .b32 t; %s.b32 t, $1, %d; lop3.b32 $0, t, 0x00780078, 0x41804180, 0xEA; }"
_BYTES = (
    "{ .reg .b32 t, u, v; shr.b32 t, $1, %d; lop3.b32 u, t, 0x007F007F, 0x43004300, 0xEA; "
    "lop3.b32 v, t, 0x00800080, 0x43004300, 0xEA; sub.bf16x2 $0, u, v; }"
)
# Floats e3m2: exponent and fraction go where bf16 has the lowest bits of its own, 2^124 corrects the exponent; subnormal numbers come
# out right by themselves. That is FP6-LLM's (Xia et al. 2024, arXiv 2401.14112), for bf16.
_FLOATS = (
    "{ .reg .b32 t, u; %s.b32 t, $1, %d; and.b32 t, t, 0x01E001E0; %s.b32 u, $2, %d; lop3.b32 t, u, 0x02000200, t, 0xEA; "
    "%s.b32 u, $2, %d; lop3.b32 t, u, 0x80008000, t, 0xEA; "
    ".reg .b32 v, w; mov.b32 v, 0x7D807D80; mov.b32 w, 0x80008000; fma.rn.bf16x2 $0, t, v, w; }"
)


def _moved(by: int) -> tuple[str, int]:
    """The shift by so many bits to the left, or less than none."""
    return ("shl", by) if by >= 0 else ("shr", -by)


FOUR_BITS = tl.constexpr(tuple(_NIBBLES % way for way in (("shl", 3), ("shr", 1), ("shr", 5), ("shr", 9))))
EIGHT_BITS = tl.constexpr(tuple(_BYTES % shift for shift in (0, 8)))
SIX_BITS = tl.constexpr(tuple(  # code i of the lower plane is number i % 4 of its own, of the upper one number i
    _FLOATS % (*_moved(5 - 4 * (i % 4)), *_moved(9 - 2 * i), *_moved(14 - 2 * i)) for i in range(8)
))  # fmt: skip

# Sizes and signs of (nibble - zero), four at a time, as e4m3 of 2^-9 of them: its codes 0 to 15 are as far apart as whole numbers are. A
# byte is 128 + nibble - zero; where that lies below 128, 127 - its low bits + 1 is the size.
_CODES = (
    "{ .reg .b32 q, n, o, m; prmt.b32 q, $1, $2, %s; shr.b32 q, q, %d; lop3.b32 q, q, 0x0F0F0F0F, 0x80808080, 0xEA; sub.s32 q, q, $3; "
    "lop3.b32 n, q, 0x80808080, 0x80808080, 0x0C; shr.b32 o, n, 7; sub.s32 m, n, o; lop3.b32 q, q, m, 0x7F7F7F7F, 0x28; "
    "add.s32 q, q, o; add.s32 $0, q, n; }"
)
NIBBLES = tl.constexpr(tuple(_CODES % way for way in (("0x6420", 0), ("0x6420", 4), ("0x7531", 0), ("0x7531", 4))))
CODE = tl.constexpr(512.0)  # a whole number is so many times what its code means


@triton.jit
def moved(codes, by: tl.constexpr):
    """`codes`, shifted by so many bits to the left, or less than none."""
    return codes << by if by >= 0 else codes >> -by


@triton.jit
def widened(codes, upper, offset, number: tl.constexpr, bits: tl.constexpr):
    """Code `number` of every int16 as bf16. A nibble becomes the upper bits of the fraction of 16, `offset` has these 16 too; a byte,
    signed, is its low seven bits in the fraction of 128, less 128, less 128 more where it is negative. Of 6 bits the upper ones are
    in `upper`, which holds eight of them."""
    if not INTERPRETED:
        if bits == 6:
            wide = tl.inline_asm_elementwise(SIX_BITS[number], "=r,r,r", [codes, upper], tl.bfloat16, is_pure=True, pack=2)
        elif bits == 4:
            wide = tl.inline_asm_elementwise(FOUR_BITS[number], "=r,r", [codes], tl.bfloat16, is_pure=True, pack=2)
        else:
            wide = tl.inline_asm_elementwise(EIGHT_BITS[number], "=r,r", [codes], tl.bfloat16, is_pure=True, pack=2)
    elif bits == 6:
        size = (moved(codes, 5 - 4 * (number % 4)) & 0x1E0) | (moved(upper, 9 - 2 * number) & 0x200)
        signed = (size | (moved(upper, 14 - 2 * number) & -0x8000)).to(tl.bfloat16, bitcast=True)
        wide = (signed.to(tl.float32) * 2.0**124).to(tl.bfloat16)
    elif bits == 4:
        wide = ((moved(codes, 3 - 4 * number) & 0x78) | 0x4180).to(tl.bfloat16, bitcast=True)
    else:
        byte = moved(codes, -8 * number)
        wide = ((byte & 0x7F) | 0x4300).to(tl.bfloat16, bitcast=True) - ((byte & 0x80) | 0x4300).to(tl.bfloat16, bitcast=True)
    return wide - offset if bits == 4 else wide


@triton.jit
def narrowed(codes, zero, number: tl.constexpr):
    """Code `number` of every int16 of 4-bit codes, less `zero`, u8, as the bits of e4m3 of 1 / CODE of it, int8; nothing is rounded."""
    if not INTERPRETED:
        return tl.inline_asm_elementwise(NIBBLES[number], "=r,r,r,r", [codes, zero], tl.int8, is_pure=True, pack=4)
    else:
        whole = ((codes >> (4 * number)) & 15) - zero.to(tl.int16)
        return (tl.abs(whole) | (whole & 0x80)).to(tl.int8)
