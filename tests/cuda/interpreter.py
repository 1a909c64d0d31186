"""Changes Triton's interpreter to sum in the order of compiled kernels, and to be faster."""

from typing import Any

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def sum_in_order(patch: pytest.MonkeyPatch) -> None:
    """NumPy sums in another order for one row than for many, and takes bfloat16 for integers."""
    patch.setattr(InterpreterBuilder, "create_dot", _dot)


def prepare_once(patch: pytest.MonkeyPatch) -> None:
    """Patches Triton's language once; the interpreter would do it at every call of a function, which takes long."""
    prepare, prepared = interpreter._patch_lang, set()

    def prepare_once(function: Any) -> Any:
        languages = frozenset(name for name, value in function.__globals__.items() if value in (tl, tl.core))
        if languages not in prepared:
            prepare(function)
            # The bound of a loop is an array of one number, which Triton 3.6 passes to int(); NumPy 2.4 refuses that.
            patch.setattr(tl.tensor, "__index__", lambda number: number.handle.data.item(), raising=False)
            prepared.add(languages)
        return interpreter._LangPatchScope()  # an empty scope: there is nothing to restore

    patch.setattr(interpreter, "_patch_lang", prepare_once)


def _dot(builder: Any, left: Any, right: Any, total: Any, *_: object) -> Any:
    """`tl.dot`: adds left [M, K] times right [K, N] to total [M, N], from the first product to the last."""
    rows, columns, sums = _float32(left), _float32(right), total.data
    for place in range(rows.shape[-1]):
        sums = sums + rows[..., :, place : place + 1] * columns[..., place : place + 1, :]
    return TensorHandle(sums, total.dtype.scalar)


def _float32(handle: Any) -> "np.ndarray":
    numbers: np.ndarray = handle.data
    is_bfloat16 = handle.dtype.scalar == tl.bfloat16
    return (numbers.astype(np.uint32) << 16).view(np.float32) if is_bfloat16 else numbers.astype(np.float32)
