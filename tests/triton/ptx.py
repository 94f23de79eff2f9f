"""A few instructions of PTX on arrays of 32-bit registers, by the manual, for the lines of assembly in kernels."""

import re

import numpy as np


def execute(text: str, registers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All registers after `text`; `registers`: what it reads, uint32 by name. Halves that are taken apart are uint16."""
    registers = dict(registers)
    for line in filter(None, (part.strip() for part in re.sub(r"^{|}$", "", text.strip()).split(";"))):
        name, _, rest = line.partition(" ")
        if name == ".reg":
            continue
        if halves := re.match(r"{(\S+), (\S+)}, (\S+)", rest):
            low, high, source = halves.groups()
            registers[low], registers[high] = (registers[source] >> shift & 0xFFFF for shift in (0, 16))
            continue
        target, *operands = (part.strip() for part in rest.split(","))
        values = [registers[part] if part in registers else np.uint32(int(part, 0)) for part in operands]
        registers[target] = _one(name, values)
    return registers


def _one(name: str, values: list[np.ndarray]) -> np.ndarray:
    if name in ("sub.bf16x2", "sub.rn.bf16x2"):
        difference = bf16(values[0]) - bf16(values[1])
        assert (difference.view(np.uint32) & 0xFFFF == 0).all(), "not exact in bf16"
        return rounded(difference)
    if name in ("mul.rn.bf16x2", "fma.rn.bf16x2"):
        a, b, *c = (bf16(value).reshape(-1, 2).astype(np.float64) for value in values)  # numbers that are the same everywhere are one
        return rounded((a * b + sum(c)).flatten())
    if name == "cvt.rn.bf16x2.f32":  # the first operand to the upper half
        return rounded(np.stack([value.view(np.float32) for value in reversed(values)], -1))[..., 0]
    if name == "lop3.b32":
        a, b, c, table = values
        found = np.zeros_like(a)
        for bit in range(8):  # the table's bit number abc
            sides = [part if bit >> place & 1 else ~part for part, place in ((a, 2), (b, 1), (c, 0))]
            found |= sides[0] & sides[1] & sides[2] if int(table) >> bit & 1 else np.uint32(0)
        return found
    if name == "mov.b32":
        return values[0]
    if name == "prmt.b32":  # byte i of the result is the one of both that nibble i of the third names
        a, b, order = values
        both = np.concatenate([np.ascontiguousarray(part).view(np.uint8).reshape(-1, 4) for part in (a, b)], 1)
        return np.ascontiguousarray(both[:, [int(order) >> 4 * i & 7 for i in range(4)]]).view(np.uint32)[:, 0]
    if name in ("add.s32", "sub.s32"):
        return values[0] + values[1] if name == "add.s32" else values[0] - values[1]
    if name == "and.b32":
        return values[0] & values[1]
    return {"shl.b32": np.left_shift, "shr.b32": np.right_shift}[name](*values)


def bf16(register: np.ndarray) -> np.ndarray:
    """The two halves of every register as fp32, side by side."""
    return (np.ascontiguousarray(register).view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(numbers: np.ndarray) -> np.ndarray:
    """Numbers, side by side, to bf16 (nearest even), two to a register."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return np.ascontiguousarray((bits + 0x7FFF + (bits >> 16 & 1) >> 16).astype(np.uint16)).view(np.uint32)
