"""Element types torch does not have (2-, 4- and 8-bit): they travel as NumPy arrays of ml_dtypes."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Node, NotCoveredError, TensorLike
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import known_to_torch, numpy_dtype, torch_dtype


def tensor_of(x: TensorLike) -> Tensor:
    """Return a tensor as it is, an array in a type of torch that holds its values exactly.

    Raises NotCoveredError for strings.
    """
    if isinstance(x, torch.Tensor):
        return x
    if x.dtype.kind in "OUS":
        raise NotCoveredError("strings")
    plain = x.astype(np.int32 if _is_integer(x.dtype) else np.float32)
    return torch.from_numpy(np.ascontiguousarray(plain).reshape(x.shape))


def converted(node: Node, x: TensorLike, code: int) -> TensorLike:
    """Return ``x`` with the element type ``code``: a tensor, or an array of a type torch does not have.

    Raises NotCoveredError for strings.
    """
    if isinstance(x, torch.Tensor) and known_to_torch(code):
        return x.to(torch_dtype(node, code))
    if isinstance(x, torch.Tensor):
        return to_array(node, x, code)
    tensor = tensor_of(x)
    if known_to_torch(code):
        return tensor.to(torch_dtype(node, code))
    return to_array(node, tensor, code)


def to_array(node: Node, x: Tensor, code: int) -> Array:
    """Return ``x`` rounded to a 2-, 4- or 8-bit type; ``saturate`` (default 1) clamps 8-bit floats."""
    if code == int(ir.DataType.STRING):
        raise NotCoveredError("strings")
    dtype = numpy_dtype(code)
    if _is_integer(dtype):
        whole = x.detach().cpu().to(torch.int64).numpy()
        return _wrapped(whole, dtype)
    values = x.detach().cpu().to(torch.float32).numpy()
    if code == int(ir.DataType.FLOAT8E8M0):
        return _power_of_two(node, values, dtype)
    if code == int(ir.DataType.FLOAT4E2M1) or node.get("saturate", 1):
        limits: Any = ml_dtypes.finfo
        largest = np.float32(limits(dtype).max)
        values = np.clip(values, -largest, largest)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(values.astype(dtype))


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.name in ("int4", "uint4", "int2", "uint2") or dtype.kind in "iub"


def _wrapped(whole: Array, dtype: np.dtype[Any]) -> Array:
    """Keep the low bits, as a C conversion does."""
    bits = int(dtype.name.removeprefix("u").removeprefix("int"))
    low = whole & (2**bits - 1)
    if not dtype.name.startswith("u"):
        low = np.where(low >= 2 ** (bits - 1), low - 2**bits, low)
    return np.asarray(low.astype(np.int8 if dtype.name.startswith("i") else np.uint8).astype(dtype))


def _power_of_two(node: Node, values: Array, dtype: np.dtype[Any]) -> Array:
    """Round to float8 e8m0, which holds powers of two; ``round_mode`` is up, down or nearest."""
    mode = node.get("round_mode", "up")
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log2(np.abs(values.astype(np.float64)))
    below = np.floor(exponent)
    if mode == "down":
        rounded = below
    elif mode == "nearest":
        rounded = np.where(np.abs(values) >= 1.5 * np.exp2(below), below + 1, below)
    else:
        rounded = np.ceil(exponent)
    if node.get("saturate", 1):
        rounded = np.clip(rounded, -127, 127)
    stored = np.where(np.isfinite(rounded) & (np.abs(rounded) <= 127), rounded + 127, 255)
    return np.asarray(stored.astype(np.uint8).view(dtype))
