"""Checks of type, shape and layout before an address leaves Python. A tensor that does not fit raises InputError naming it."""

import torch
from torch import Tensor

from slipstream.base.errors import InputError
from slipstream.ops.types import KV

FLOATS = (torch.float32, torch.bfloat16)
CACHED = (*FLOATS, torch.int8)  # in the order of csrc/kernels.h, Kv


def fits(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> int:
    """The address of a contiguous CPU tensor of this type and shape."""
    if tensor.shape == shape and tensor.dtype is dtype and tensor.is_cpu and tensor.is_contiguous():
        return tensor.data_ptr()
    layout = "" if tensor.is_contiguous() else ", not contiguous"
    found = f"{list(tensor.shape)} of {tensor.dtype} on {tensor.device}{layout}"
    raise InputError(f"{op}: {name} must be a contiguous CPU tensor {list(shape)} of {dtype}; found {found}")


def rows_apart(op: str, name: str, tensor: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """(address, numbers from one row to the next) of an fp32 CPU matrix of this shape whose rows may lie apart."""
    if tensor.shape == shape and tensor.dtype is torch.float32 and tensor.is_cpu and tensor.stride(1) == 1 and tensor.stride(0) >= shape[1]:
        return tensor.data_ptr(), tensor.stride(0)
    return fits(op, name, tensor, shape), shape[1]


def float_type(op: str, name: str, tensor: Tensor) -> torch.dtype:
    if tensor.dtype not in FLOATS:
        raise InputError(f"{op}: {name} must be fp32 or bf16; found {tensor.dtype}")
    return tensor.dtype


def cache(op: str, kv: KV) -> tuple[int, int, int, int, int, int, int, int, int]:
    """(address of keys, of values, number of the type, pages, kv_heads, page_size, head_dim, bytes to the next page, to the next head)."""
    if kv.keys.dim() != 4:
        raise InputError(f"{op}: kv.keys must be [pages, kv_heads, page_size, head_dim]; found {list(kv.keys.shape)}")
    shape, dtype = tuple(kv.keys.shape), kv.keys.dtype
    if dtype not in CACHED:
        raise InputError(f"{op}: kv.keys must be fp32, bf16 or int8; found {dtype}")
    page, head = tokens_together(op, "kv.keys", kv.keys)
    if kv.values.shape != shape or kv.values.dtype is not dtype or kv.values.stride() != kv.keys.stride():
        raise InputError(f"{op}: kv.values must lie as kv.keys do, {list(shape)} of {dtype}; found {list(kv.values.shape)}")
    return kv.keys.data_ptr(), kv.values.data_ptr(), CACHED.index(dtype), *shape[:3], kv.head_dim, page, head


def tokens_together(op: str, name: str, tensor: Tensor) -> tuple[int, int]:
    """Bytes from page to page and from head to head of a CPU tensor [..., pages, kv_heads, page_size, head_dim], which may lie apart."""
    if tensor.is_cpu and tensor.stride(-1) == 1 and tensor.stride(-2) == tensor.shape[-1]:
        return tensor.stride(-4) * tensor.element_size(), tensor.stride(-3) * tensor.element_size()
    raise InputError(f"{op}: {name} must be on the CPU, a head's tokens of a page together; found strides {tensor.stride()}")


def integers(op: str, name: str, tensor: Tensor, n: int) -> int:
    return fits(op, name, tensor, (n,), torch.int32)
