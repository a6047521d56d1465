"""Changes of element type, those torch does not have included: they travel as NumPy arrays."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Example, Node, NotCoveredError, TensorLike, operator
from onnxcompress.ops._examples import always, example, integers, normal
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import code_of, known_to_torch, numpy_dtype, torch_dtype


def _examples(version: int) -> list[Example]:
    x = normal(3, 4) * 5
    if version < 6:
        return [example(x, to="INT32"), example(x, to="DOUBLE")]
    codes = [6, 7, 9, 10, 11] if version < 13 else [6, 7, 9, 10, 11, 16]
    return [example(x, to=code) for code in codes] + [example(integers(-2, 2, 3, 4), to=1)]


@operator("Cast", examples=_examples, arrays=True)
def _cast(node: Node, x: TensorLike) -> TensorLike:
    return converted(node, x, code_of(node.attributes["to"]))


@operator(
    "CastLike",
    examples=always(example(normal(3, 4) * 5, np.array([1])), example(np.array([1, 0]), normal(1))),
    arrays=True,
)
def _cast_like(node: Node, x: TensorLike, like: TensorLike) -> TensorLike:
    if isinstance(like, torch.Tensor):
        if isinstance(x, torch.Tensor):
            return x.to(like.dtype)
        return converted(node, x, 1).to(like.dtype).to(like.device)
    return converted(node, x, int(ir.DataType.from_numpy(like.dtype)))


def converted(node: Node, x: TensorLike, code: int) -> TensorLike:
    """Return ``x`` with the element type ``code``: a tensor, or an array of a type torch does not have.

    Raises NotCoveredError for strings.
    """
    if isinstance(x, torch.Tensor) and known_to_torch(code):
        return x.to(torch_dtype(node, code))
    if isinstance(x, torch.Tensor):
        return to_array(node, x, code)
    if x.dtype.kind in "OUS" or code == int(ir.DataType.STRING):
        raise NotCoveredError("strings")
    wide = x.astype(np.float32) if not _is_integer(x.dtype) else x.astype(np.int64)
    tensor = torch.from_numpy(np.ascontiguousarray(wide)).reshape(x.shape)
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


@operator("BitCast", examples=always(example(normal(3, 4), to=6)), differentiable=False, arrays=True)
def _bit_cast(node: Node, x: TensorLike) -> TensorLike:
    code = node.attributes["to"]
    if isinstance(x, torch.Tensor) and known_to_torch(code):
        return x.view(torch_dtype(node, code))
    array = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
    if array.dtype.kind in "OUS":
        raise NotCoveredError("strings")
    seen = array.view(numpy_dtype(code))
    return torch.from_numpy(seen.copy()) if known_to_torch(code) else seen
