"""Repairs of Triton's interpreter, for tests only: with them a kernel's bfloat16 path runs on a CPU, rounding included.

The interpreter keeps bfloat16 as uint16 and forgets so in casts, products and arithmetic (triton#11584), it rounds
twice in a fused multiply-add, and before 3.7 it cannot take a loop bound from a one-element array with numpy 2.4
(triton#9171).
"""

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter


def repair() -> None:
    """Patch the interpreter; once is enough, more does no harm."""
    builder: Any = interpreter.InterpreterBuilder
    if getattr(builder, "knows_bfloat16", False):
        return
    builder.cast_impl = _repaired_cast(builder.cast_impl)
    builder.create_fp_to_fp = _repaired_fp_to_fp(builder.create_fp_to_fp)
    builder.create_dot = _repaired_dot(builder.create_dot)
    builder.binary_op = _repaired_binary(builder.binary_op)
    builder.create_fma = _fused
    interpreter._patch_lang_tensor = _repaired_patch(interpreter._patch_lang_tensor)
    builder.knows_bfloat16 = True


def widen(bits: np.ndarray) -> np.ndarray:
    """Bfloat16 bit patterns to float32."""
    return (np.ascontiguousarray(bits).astype(np.uint32) << 16).view(np.float32).reshape(np.shape(bits))


def narrow(values: np.ndarray) -> np.ndarray:
    """Float32 to bfloat16 bit patterns, to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def _handle(data: np.ndarray, dtype: Any) -> Any:
    return interpreter.TensorHandle(data, dtype)


def _repaired_cast(original: Any) -> Any:
    def cast_impl(self: Any, source: Any, dtype: Any) -> Any:
        old, new = source.dtype.scalar, dtype.scalar
        if old == new:
            return source
        if old == tl.bfloat16:
            return _handle(widen(source.data).astype(interpreter._get_np_dtype(dtype)), new)
        if new == tl.bfloat16:
            return _handle(narrow(source.data.astype(np.float32)), new)
        return original(self, source, dtype)

    return cast_impl


def _repaired_fp_to_fp(original: Any) -> Any:
    def create_fp_to_fp(self: Any, source: Any, dtype: Any, rounding: Any) -> Any:
        if dtype.scalar == tl.bfloat16 and source.dtype.scalar in (tl.float32, tl.float16):
            return _handle(narrow(source.data.astype(np.float32)), dtype.scalar)
        return original(self, source, dtype, rounding)

    return create_fp_to_fp


def _repaired_dot(original: Any) -> Any:
    def create_dot(self: Any, left: Any, right: Any, accumulator: Any, *rest: Any) -> Any:
        if left.dtype.scalar == tl.bfloat16:
            left = _handle(widen(left.data), tl.float32)
        if right.dtype.scalar == tl.bfloat16:
            right = _handle(widen(right.data), tl.float32)
        return original(self, left, right, accumulator, *rest)

    return create_dot


def _repaired_binary(original: Any) -> Any:
    def binary_op(self: Any, left: Any, right: Any, operation: Any) -> Any:
        if left.dtype.scalar != tl.bfloat16 or right.dtype.scalar != tl.bfloat16:
            return original(self, left, right, operation)
        result = operation(widen(left.data), widen(right.data))
        return _handle(result, tl.int1) if result.dtype == np.bool_ else _handle(narrow(result), tl.bfloat16)

    return binary_op


def _fused(self: Any, x: Any, y: Any, z: Any) -> Any:
    # A product of two float32 is exact in float64. Infinities that cancel are NaN without a word on a GPU.
    with np.errstate(invalid="ignore"):
        exact = x.data.astype(np.float64) * y.data + z.data
        return _handle(exact.astype(x.data.dtype), z.dtype)


def _repaired_patch(original: Any) -> Any:
    def patch(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

    return patch
