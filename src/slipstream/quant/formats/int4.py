"""int4: four bits per weight and one fp16 scale per 32 inputs, symmetric (quant/four_bit.py).

The numbers are those of Q4_0 (GGUF), whose blocks are laid out into the same tensors.
"""

from functools import partial

from slipstream.quant import four_bit
from slipstream.quant.four_bit import unpack

NAME = "int4"
OP = "int4"
GROUP = 32

quantise = partial(four_bit.quantise, NAME, group=GROUP)
bytes = partial(four_bit.bytes, group=GROUP)

__all__ = ["GROUP", "NAME", "OP", "bytes", "quantise", "unpack"]
