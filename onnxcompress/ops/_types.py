"""ONNX element types in torch, and integer arguments out of tensors."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.ops._base import Node, NotCoveredError
from onnxcompress.ops._torch import Tensor, torch

_FLOATS = (1, 10, 16)


@cache
def _table() -> dict[int, Any]:
    names = {
        1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
        10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128",
        16: "bfloat16",
    }  # fmt: skip
    return {code: getattr(torch, name) for code, name in names.items()}


def code_of(to: int | str) -> int:
    """Return the number of an element type; Cast-1 names it by a string ("FLOAT")."""
    return int(ir.DataType[to]) if isinstance(to, str) else int(to)


def torch_dtype(node: Node, code: int) -> torch.dtype:
    """Return the torch type an attribute of ``node`` names; raises NotCoveredError where torch has none."""
    if node.wide and code in _FLOATS:
        return torch.float64
    try:
        dtype: torch.dtype = _table()[code]
    except KeyError:
        raise NotCoveredError(f"element type {ir.DataType(code).name}") from None
    return dtype


def known_to_torch(code: int) -> bool:
    """Return whether torch holds this element type (4-bit and 8-bit floats and integers, strings: no)."""
    return code in _table()


def numpy_dtype(code: int) -> np.dtype[Any]:
    """Return the NumPy (or ml_dtypes) type of an ONNX element type."""
    return np.dtype(ir.DataType(code).numpy())


def ints(values: Tensor | list[int] | None) -> list[int]:
    """Return integers given as a tensor of any shape, or as an attribute."""
    if values is None:
        return []
    if isinstance(values, torch.Tensor):
        return [int(v) for v in values.reshape(-1).tolist()]
    return [int(v) for v in values]


def number(value: Tensor | float | None, default: float) -> float:
    """Return one number given as a tensor with one element, or ``default`` where it is left out."""
    if value is None:
        return default
    return float(value.reshape(-1)[0].item()) if isinstance(value, torch.Tensor) else float(value)


def constant(node: Node, array: Any, device: torch.device) -> Tensor:
    """Return a tensor attribute as a tensor on ``device``."""
    dtype = torch_dtype(node, int(ir.DataType.from_numpy(array.dtype)))
    plain = array.astype(np.float32) if array.dtype.name == "bfloat16" else np.ascontiguousarray(array)
    return torch.from_numpy(plain.reshape(array.shape).copy()).to(device=device, dtype=dtype)


def positive_axis(axis: int, rank: int) -> int:
    """Return ``axis`` counted from the front."""
    return axis + rank if axis < 0 else axis
