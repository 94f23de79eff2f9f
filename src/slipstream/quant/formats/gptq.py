"""GPTQ: 2, 4 or 8-bit numbers with a scale and a zero per group of inputs, w = (q - zero) * scale (Frantar et al. 2022).

Stored by AutoGPTQ and GPTQModel: qweight i32 [k * bits / 32, n], packed along k; qzeros i32 [groups, n * bits / 32], packed along n;
scales [groups, n]; g_idx i32 [k], the group of each input (needed with desc_act). Version 1 stores zero - 1, version 2 the zero;
some writers store version 2 under the name of version 1, which shows where the zeros are known (sym).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from slipstream.base.errors import CheckpointError
from slipstream.quant.grouped import OP, Grouped, runs
from slipstream.quant.packing import groups, spread
from slipstream.quant.scheme import Scheme, Shape, field, group

NAME = "gptq"
METHODS = ("gptq",)
_WAY_OUT = "take another quantisation of the model, or the unquantised one with quant='int8'"


def recognise(config: Mapping[str, Any]) -> Scheme | None:
    """See `quant/scheme.py`."""
    if config.get("quant_method") not in METHODS:
        return None
    bits = field(config, "bits", (2, 4, 8), None, NAME, _WAY_OUT)
    version = field(config, "checkpoint_format", ("gptq", "gptq_v2", None, ""), "gptq", NAME, _WAY_OUT)
    if config.get("dynamic"):
        raise CheckpointError(f"quantization_config ({NAME}): dynamic: layers of different kinds are not supported; {_WAY_OUT}")
    settings = dict(bits=bits, group_size=group(config, NAME), version=2 if version == "gptq_v2" else 1, sym=config.get("sym") is True)
    return Scheme(
        name=NAME,
        key="qweight",
        dtypes=("I32",),
        shape=lambda shapes: (shapes["qweight"][1], shapes["qweight"][0] * 32 // bits),
        unpack=lambda stored, shape: unpack(stored, shape, **settings),
        needed=("qzeros", "scales"),
        optional=("g_idx",),
        native=lambda stored, k: OP if bits == 4 and runs(stored["scales"], stored.get("g_idx"), k, settings["group_size"]) else None,
        lay_out=lambda stored, shape: lay_out(stored, **settings),
    )


def unpack(
    stored: Mapping[str, Tensor], shape: Shape | None = None, *, bits: int = 4, group_size: int = -1, version: int = 1, sym: bool = False
) -> Tensor:
    """The weights, fp32 [n, k].

    Args:
        stored: qweight, qzeros, scales, perhaps g_idx.
        bits, group_size, sym: as in quantization_config.
        version: 1 if zeros are stored minus one.

    Raises:
        CheckpointError: the tensors do not fit each other.
    """
    return _grouped(stored, bits, group_size, version, sym).plain()


def lay_out(stored: Mapping[str, Tensor], *, bits: int, group_size: int, version: int, sym: bool) -> dict[str, Tensor]:
    """The same weights as the tensors of kernel OP."""
    return _grouped(stored, bits, group_size, version, sym).laid_out()


def _grouped(stored: Mapping[str, Tensor], bits: int, group_size: int, version: int, sym: bool) -> Grouped:
    q = spread(stored["qweight"], bits, 0)  # [k, n]
    scales = stored["scales"]  # [groups, n]
    zeros = spread(stored["qzeros"], bits, 1)  # [groups, n]
    middle = 2 ** (bits - 1)
    if version == 1 and not (sym and bool((zeros == middle).all())):
        zeros = (zeros + 1) & (2**bits - 1)
    k = len(q)
    index = stored["g_idx"].long() if "g_idx" in stored else groups(len(scales), group_size, k)
    grouped = index.shape == (k,) and int(index.min()) >= 0 and int(index.max()) < len(scales)
    if not grouped or zeros.shape != scales.shape or q.shape[1] != scales.shape[1]:
        raise CheckpointError("g_idx, scales and qzeros do not fit qweight and group_size; fetch the whole checkpoint again")
    return Grouped(q, zeros, scales, index)
