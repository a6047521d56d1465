"""Linear quantisation and its inverse, per tensor, per axis and per block, 2 to 32 bits and 8-bit floats."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxcompress.ops._array_types import converted, tensor_of, to_array
from onnxcompress.ops._base import Example, Node, TensorLike, operator
from onnxcompress.ops._examples import always, example, integers, normal, uniform
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import positive_axis, torch_dtype


def spread(node: Node, parameter: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a scale or zero point shaped so that it broadcasts over a tensor of ``shape``."""
    if parameter.numel() == 1 and parameter.dim() <= 1:
        return parameter.reshape(())
    axis = positive_axis(node.get("axis", 1), len(shape))
    if parameter.dim() == 1:
        return parameter.reshape(-1, *[1] * (len(shape) - axis - 1))
    block = node.get("block_size", 0) or -(-shape[axis] // parameter.shape[axis])
    return parameter.repeat_interleave(block, axis).narrow(axis, 0, shape[axis])


def integer_limits(code: int) -> tuple[int, int]:
    """Return the least and greatest value of an integer type."""
    name = ir.DataType(code).name
    bits = int(name.removeprefix("U").removeprefix("INT"))
    return (0, 2**bits - 1) if name.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _code(node: Node, zero: TensorLike) -> int:
    if zero is None:
        return node.get("output_dtype", 0) or int(ir.DataType.UINT8)
    if isinstance(zero, torch.Tensor):
        kind = np.dtype(str(zero.dtype).removeprefix("torch."))
        return int(ir.DataType.from_numpy(kind))
    return int(ir.DataType.from_numpy(zero.dtype))


def _quantize_examples(version: int) -> list[Example]:
    x, scale = normal(3, 4, 2) * 3, np.array(0.05, np.float32)
    cases = [
        example(x, scale, np.array(10, np.uint8)),
        example(x, scale, np.array(-3, np.int8)),
        example(x, scale),
    ]
    if version >= 13:
        scales, zeros = uniform(0.02, 0.1, 4), integers(-9, 9, 4, dtype=np.int8)
        cases.append(example(x, scales, zeros, axis=1))
    if version >= 21:
        blocks = uniform(0.02, 0.1, 3, 2, 2)
        cases.append(example(x, blocks, integers(0, 9, 3, 2, 2, dtype=np.uint8), axis=1, block_size=2))
        cases.append(example(x, scale, np.array(500, np.uint16)))
    return cases


@operator("QuantizeLinear", examples=_quantize_examples, differentiable=False, arrays=True)
def _quantize_linear(node: Node, x: Tensor, scale: TensorLike, zero: TensorLike = None) -> TensorLike:
    code = _code(node, zero)
    name = ir.DataType(code).name
    steps = spread(node, tensor_of(scale).to(x.device), x.shape)
    precision = node.get("precision", 0)
    if precision:
        kind = torch_dtype(node, precision)
        ratio = x.to(kind) / steps.to(kind)
    else:  # half precision could not hold the result
        kind = torch.float64 if torch.float64 in (x.dtype, steps.dtype) else torch.float32
        ratio = x.to(kind) / steps.to(kind)
    if name.startswith("FLOAT"):
        return to_array(node, ratio, code)
    rounded = torch.round(ratio)
    if zero is not None:
        rounded = rounded + spread(node, tensor_of(zero).to(x.device), x.shape).to(rounded.dtype)
    low, high = integer_limits(code)
    return converted(node, torch.clamp(rounded, low, high), code)


def _dequantize_examples(version: int) -> list[Example]:
    x, scale = integers(0, 255, 3, 4, 2, dtype=np.uint8), np.array(0.05, np.float32)
    cases = [
        example(x, scale, np.array(10, np.uint8)),
        example((x // 2).astype(np.int8), scale),
        example(integers(-9999, 9999, 3, 4, dtype=np.int32), scale),
    ]
    if version >= 13:
        scales, zeros = uniform(0.02, 0.1, 4), integers(0, 9, 4, dtype=np.uint8)
        cases.append(example(x, scales, zeros, axis=1))
    if version >= 21:
        blocks = uniform(0.02, 0.1, 3, 2, 2)
        cases.append(example(x, blocks, integers(0, 9, 3, 2, 2, dtype=np.uint8), axis=1, block_size=2))
        small = integers(-8, 8, 3, 4).astype(np.int8).astype(ml_dtypes.int4)
        cases.append(example(small, scale))
    return cases


@operator("DequantizeLinear", examples=_dequantize_examples, arrays=True)
def _dequantize_linear(node: Node, x: TensorLike, scale: TensorLike, zero: TensorLike = None) -> Tensor:
    steps = tensor_of(scale)
    values = tensor_of(x).to(steps.device)
    code = node.get("output_dtype", 0)
    kind = torch_dtype(node, code) if code else steps.dtype
    if zero is not None:
        offset = spread(node, tensor_of(zero).to(steps.device), values.shape)
        if values.is_floating_point():
            values = values - offset
        else:
            values = values.to(torch.int64) - offset.to(torch.int64)
    wide = torch.float64 if torch.float64 in (kind, steps.dtype) else torch.float32
    product = values.to(wide) * spread(node, steps, values.shape).to(wide)
    return product.to(kind)


@operator(
    "DynamicQuantizeLinear",
    examples=always(example(normal(3, 4), outputs=3), example(normal(5) ** 2, outputs=3)),
    differentiable=False,
)
def _dynamic_quantize_linear(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.clamp(x.amin(), max=0), torch.clamp(x.amax(), min=0)
    scale = (high - low) / 255
    safe = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.clamp(torch.round(-low / safe), 0, 255)
    y = torch.clamp(torch.round(x / safe) + zero, 0, 255)
    return y.to(torch.uint8), safe, zero.to(torch.uint8)
