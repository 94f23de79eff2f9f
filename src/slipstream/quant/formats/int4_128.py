"""int4 with one fp16 scale per 128 inputs: 4.125 bits per weight (quant/four_bit.py)."""

from functools import partial

from slipstream.quant import four_bit
from slipstream.quant.four_bit import unpack

NAME = "int4_128"
OP = "int4_128"
GROUP = 128

quantise = partial(four_bit.quantise, NAME, group=GROUP)
bytes = partial(four_bit.bytes, group=GROUP)

__all__ = ["GROUP", "NAME", "OP", "bytes", "quantise", "unpack"]
