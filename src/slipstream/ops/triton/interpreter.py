"""Repairs of Triton's interpreter (3.6), so that kernels can be proved right without a GPU. Only for processes that interpret.

Owns what is wrong there:
  * loop bounds that are loaded or derived from program ids are arrays of one number, which NumPy 2.4 no longer takes as an index;
  * fp32 is cut to bf16 where the hardware rounds to nearest even;
  * bf16 products and differences are made of the bit patterns, as if they were whole numbers;
  * a row of a product depends on its place, because NumPy's BLAS cuts matrices by size; on the GPU it does not.
"""

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def repair() -> None:
    """Mends the interpreter of this process, once."""
    builder = interpreter.InterpreterBuilder
    builder.cast_impl, builder.create_dot, builder.create_fsub = _cast, _dot, _subtract
    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor


def _widened(data: np.ndarray) -> np.ndarray:
    """bf16 bit patterns (uint16) as fp32."""
    return (data.astype(np.uint32) << 16).view(np.float32)


def _narrowed(data: np.ndarray) -> np.ndarray:
    """fp32 as bf16 bit patterns, rounded to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(data).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(data), 0x7FC0, rounded).astype(np.uint16).reshape(np.shape(data))


_plain_cast = interpreter.InterpreterBuilder.cast_impl


def _cast(builder, source, target_type):
    before, after = source.dtype.scalar, target_type.scalar
    if (before, after) == (tl.bfloat16, tl.float32):
        return interpreter.TensorHandle(_widened(source.data), after)
    if (before, after) == (tl.float32, tl.bfloat16):
        return interpreter.TensorHandle(_narrowed(source.data), after)
    return _plain_cast(builder, source, target_type)


_plain_subtract = interpreter.InterpreterBuilder.create_fsub


def _subtract(builder, a, b):
    if a.dtype.scalar != tl.bfloat16:
        return _plain_subtract(builder, a, b)
    return interpreter.TensorHandle(_narrowed(_widened(a.data) - _widened(b.data)), tl.bfloat16)


def _dot(builder, a, b, d, input_precision, max_num_imprecise_acc):
    """a [m, k] @ b [k, n] + d of fp32 or bf16 operands, by ascending k."""
    left, right = (_widened(x.data) if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b))
    total = np.zeros_like(d.data)
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return interpreter.TensorHandle(total + d.data, d.dtype.scalar)
