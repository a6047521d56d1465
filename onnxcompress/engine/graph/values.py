"""Values that flow through the torch graph, and how they become NumPy arrays and back.

A value is a torch tensor; a NumPy array of a type that torch does not compute with (strings, 2-, 4- and
8-bit types); a list (ONNX sequence); a dict (ONNX map); or None (left out, or an empty optional).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch

from onnxcompress.core.encoding import Array

Value: TypeAlias = Any

TORCH_TYPES: dict[np.dtype[Any], torch.dtype] = {
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
    np.dtype(np.float16): torch.float16,
    np.dtype(np.bool_): torch.bool,
    np.dtype(np.int8): torch.int8,
    np.dtype(np.int16): torch.int16,
    np.dtype(np.int32): torch.int32,
    np.dtype(np.int64): torch.int64,
    np.dtype(np.uint8): torch.uint8,
    np.dtype(np.uint16): torch.uint16,
    np.dtype(np.uint32): torch.uint32,
    np.dtype(np.uint64): torch.uint64,
    np.dtype(np.complex64): torch.complex64,
    np.dtype(np.complex128): torch.complex128,
}

NARROW = (torch.float16, torch.bfloat16)
"""Floating types that are computed in the graph's own, wider type."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

FLOAT_ELEMENTS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_WIDE_INTEGERS = {"int4": np.int8, "int2": np.int8, "uint4": np.uint8, "uint2": np.uint8}


def constant_array(tensor: ir.TensorProtocol) -> Array:
    """Return an ONNX tensor as NumPy array; strings as an object array of ``str``."""
    array = np.asarray(tensor.numpy())
    if tensor.dtype == ir.DataType.STRING:
        texts = [s.decode("utf-8", "surrogateescape") if isinstance(s, bytes) else str(s) for s in array.flat]
        return np.array(texts, dtype=object).reshape(array.shape)
    return array


def to_value(array: Any, dtype: torch.dtype, device: torch.device) -> Value:
    """Return a NumPy array, list or dict as a value: floats as the graph computes them, on ``device``.

    Args:
        array: what onnxruntime takes as input or returns as output.
        dtype: the type the graph computes in (float32 or float64).
        device: where floating-point tensors live.
    """
    if isinstance(array, list):
        return [to_value(item, dtype, device) for item in array]
    if array is None or isinstance(array, dict):
        return array
    array = np.asarray(array)
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(device, dtype)
    if array.dtype not in TORCH_TYPES:
        return array.astype(object) if array.dtype.kind in "SU" else array
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()
    # Of NumPy's two names for the same 64-bit integer, torch knows one.
    plain = np.ascontiguousarray(array).view(array.dtype.name).reshape(array.shape)
    tensor = torch.from_numpy(plain)
    return computed(tensor, dtype).to(device)


def computed(value: Value, dtype: torch.dtype) -> Value:
    """Return a value with its floating types as the graph computes them.

    Half precision becomes ``dtype``; in float64 every floating type does.
    """
    if isinstance(value, torch.Tensor):
        if value.dtype in NARROW or (value.dtype is torch.float32 and dtype is torch.float64):
            return value.to(dtype)
        return value
    if isinstance(value, list):
        return [computed(item, dtype) for item in value]
    if isinstance(value, np.ndarray) and (value.dtype in TORCH_TYPES or value.dtype == BFLOAT16):
        return to_value(value, dtype, torch.device("cpu"))
    return value


def to_array(value: Value, element: ir.DataType | None = None) -> Any:
    """Return a value as onnxruntime would: NumPy arrays, lists, dicts.

    Args:
        value: the value.
        element: the element type to store floating-point results in; None: as they were computed.
    """
    if isinstance(value, list):
        return [to_array(item, element) for item in value]
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        array = value.float().numpy() if value.dtype is torch.bfloat16 else value.numpy()
        if element in FLOAT_ELEMENTS and array.dtype.kind == "f":
            return array.astype(element.numpy(), copy=False)
        return array
    return value


def widened(value: Value) -> Value:
    """Return 2-, 4- and 8-bit values exactly in a type torch computes with; other values as they are."""
    if not isinstance(value, np.ndarray) or value.dtype.kind in "OSU":
        return value
    wide = _WIDE_INTEGERS.get(value.dtype.name, np.float32)
    return torch.from_numpy(value.astype(wide))


def element_type(value: ir.Value | None) -> ir.DataType | None:
    """Return the element type that the model declares for a tensor or for the items of a sequence."""
    return value.dtype if value is not None else None
