"""Repairs of Triton's interpreter (3.6), so that kernels can be proved right without a GPU. Only for processes that interpret.

Owns what is wrong there:
  * loop bounds that are loaded or derived from program ids are arrays of one number, which NumPy 2.4 no longer takes as an index;
  * fp32 is cut to bf16 where the hardware rounds to nearest even;
  * bf16 and e4m3 products and bf16 differences are made of the bit patterns, as if they were whole numbers;
  * fp32 is cut to e4m3 where the hardware rounds to nearest even; products of fp16 are summed in fp16;
  * a row of a product depends on its place, because NumPy's BLAS cuts matrices by size; on the GPU it does not;
  * every call of a function by a kernel puts the interpreted language in place again, which takes longer than most functions;
  * sums and products of whole numbers are made a second time to see whether they overflow, and nobody looks at the answer;
  * types and shapes, which are few, are made anew for every result.
"""

import inspect

import numpy as np
import torch
import triton.language as tl
from triton.language import core, semantic
from triton.runtime import interpreter


def repair() -> None:
    """Mends the interpreter of this process, once."""
    builder = interpreter.InterpreterBuilder
    builder.cast_impl, builder.create_dot, builder.create_fsub, builder.create_fp_to_fp = _cast, _dot, _subtract, _convert
    interpreter.interpreter_builder.options = interpreter.InterpreterOptions(sanitize_overflow=False)
    interpreter._get_np_dtype, core.block_type.__init__, core.tensor.__init__ = _numpy_type, _block_type, _tensor
    semantic.TritonSemantic.broadcast_impl_value, interpreter._patch_builtin = _broadcast, _put_in_place
    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor, scope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    interpreter._patch_lang_tensor = patch_tensor
    in_place: set[str] = set()  # modules whose language is the interpreted one, in the launch that runs
    patch_language, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__

    def patch_once(fn):
        if fn.__module__ in in_place:
            return None  # only a launch puts back what was there, by what its own call gave
        in_place.add(fn.__module__)
        return patch_language(fn)

    def launched(self, *arguments, **constants) -> None:
        in_place.clear()
        launch(self, *arguments, **constants)

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_once, launched


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


_plain_conversion = interpreter.InterpreterBuilder.create_fp_to_fp


def _convert(builder, source, target_type, rounding_mode):
    before, after = source.dtype.scalar, target_type.scalar
    if before == tl.float8e4nv and after in (tl.float16, tl.bfloat16):
        numbers = _numbers(source)
        return interpreter.TensorHandle(_narrowed(numbers) if after == tl.bfloat16 else numbers.astype(np.float16), after)
    if (before, after) != (tl.float32, tl.float8e4nv):
        return _plain_conversion(builder, source, target_type, rounding_mode)
    data = torch.from_numpy(np.ascontiguousarray(source.data)).clamp(-448, 448)  # beyond, the hardware stays at the greatest
    return interpreter.TensorHandle(data.to(torch.float8_e4m3fn).view(torch.uint8).numpy(), tl.float8e4nv)


_plain_subtract = interpreter.InterpreterBuilder.create_fsub


def _subtract(builder, a, b):
    if a.dtype.scalar != tl.bfloat16:
        return _plain_subtract(builder, a, b)
    return interpreter.TensorHandle(_narrowed(_widened(a.data) - _widened(b.data)), tl.bfloat16)


_E4M3 = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()


def _numbers(x) -> np.ndarray:
    """An operand of a product in fp32."""
    kind = x.dtype.scalar
    return _widened(x.data) if kind == tl.bfloat16 else _E4M3[x.data] if kind == tl.float8e4nv else x.data.astype(np.float32)


def _dot(builder, a, b, d, input_precision, max_num_imprecise_acc):
    """a [m, k] @ b [k, n] + d of fp32, bf16 or e4m3 operands, by ascending k."""
    left, right = (_numbers(x) for x in (a, b))
    total = np.zeros_like(d.data)
    for k in range(left.shape[1]):
        total += left[:, k, None] * right[k]
    return interpreter.TensorHandle(total + d.data, d.dtype.scalar)


_plain_numpy_type, _plain_block_type, _plain_tensor = interpreter._get_np_dtype, core.block_type.__init__, core.tensor.__init__
_plain_broadcast = semantic.TritonSemantic.broadcast_impl_value
_numpy_types: dict[str, np.dtype] = {}
_block_types: dict[tuple, dict] = {}  # type and shape -> attributes
_shapes: dict[tuple[int, ...], tuple] = {}  # -> count and shape as tensors have them
_functions: dict[int, tuple] = {}  # address of a part of the language -> the part, names and functions as they are interpreted


def _numpy_type(kind) -> np.dtype:
    name = kind.scalar.name
    if name not in _numpy_types:
        _numpy_types[name] = _plain_numpy_type(kind.scalar)
    return _numpy_types[name]


def _block_type(self, element_ty, shape) -> None:
    key = (element_ty.name, *[size.value if isinstance(size, core.constexpr) else size for size in shape])
    if key not in _block_types:
        _plain_block_type(self, element_ty, shape)
        _block_types[key] = dict(self.__dict__)
    self.__dict__.update(_block_types[key])


def _tensor(self, handle, type) -> None:
    key = tuple(type.shape.values) if type.is_block() else ()
    if key not in _shapes:
        _plain_tensor(self, handle, type)
        _shapes[key] = (self.numel, self.shape)
    self.handle, self.type, self.dtype = handle, type, type.scalar
    self.numel, self.shape = _shapes[key]


def _broadcast(self, lhs, rhs):
    return (lhs, rhs) if lhs.shape is rhs.shape else _plain_broadcast(self, lhs, rhs)  # of one shape there is one


def _put_in_place(package, builder, scope) -> None:
    if id(package) not in _functions:
        found = [(name, member) for name, member in inspect.getmembers(package) if core.is_builtin(member)]
        _functions[id(package)] = (package, [(name, _interpreted(member, semantic.TritonSemantic(builder))) for name, member in found])
    for name, function in _functions[id(package)][1]:
        scope.set_attr(package, name, function)


def _interpreted(member, meaning):
    return lambda *arguments, **named: member(*arguments, **(named | {"_semantic": meaning}))
