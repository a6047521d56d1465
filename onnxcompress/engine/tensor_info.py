"""TensorInfo: an input or output of a model as onnxruntime declares it, and its types in NumPy's words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx

_PLAIN_TYPES: dict[str, type[Any]] = {
    "float": np.float32,
    "double": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "string": np.object_,
}

EXOTIC_TYPES: dict[str, tuple[Any, int]] = {
    "bfloat16": (ml_dtypes.bfloat16, onnx.TensorProto.BFLOAT16),
    "float8e4m3fn": (ml_dtypes.float8_e4m3fn, onnx.TensorProto.FLOAT8E4M3FN),
    "float8e4m3fnuz": (ml_dtypes.float8_e4m3fnuz, onnx.TensorProto.FLOAT8E4M3FNUZ),
    "float8e5m2": (ml_dtypes.float8_e5m2, onnx.TensorProto.FLOAT8E5M2),
    "float8e5m2fnuz": (ml_dtypes.float8_e5m2fnuz, onnx.TensorProto.FLOAT8E5M2FNUZ),
}
"""Types NumPy has no word for: (ml_dtypes type, ONNX element type). They travel as raw bits."""


@dataclass(frozen=True)
class TensorInfo:
    """One input or output as onnxruntime declares it.

    Attributes:
        name: its name.
        dtype: onnxruntime's word for its type, ``"tensor(float)"``, ``"seq(tensor(int64))"``.
        numpy: element type; ``object`` for strings; None for sequences, maps and 4-bit types.
        shape: numbers, symbolic names, or None for a dimension without either; ``()`` where not a tensor.
    """

    name: str
    dtype: str
    numpy: np.dtype[Any] | None
    shape: tuple[int | str | None, ...]


def numpy_type(dtype: str) -> np.dtype[Any] | None:
    """Return the NumPy type of ``"tensor(…)"``; None for what is not a tensor or has no NumPy type.

    >>> numpy_type("tensor(float)")
    dtype('float32')
    """
    match = re.fullmatch(r"(?:sparse_)?tensor\((\w+)\)", dtype)
    element = match[1] if match else ""
    if element in EXOTIC_TYPES:
        exotic: np.dtype[Any] = np.dtype(EXOTIC_TYPES[element][0])
        return exotic
    return np.dtype(_PLAIN_TYPES[element]) if element in _PLAIN_TYPES else None
