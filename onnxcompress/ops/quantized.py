"""Products of quantised tensors: integer sums are exact, held in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Example, Node, NotCoveredError, Shape, operator
from onnxcompress.ops._contraction import conv_macs, convolved, matmul_macs
from onnxcompress.ops._examples import example, integers, uniform
from onnxcompress.ops._torch import Tensor, torch


def _centred(x: Tensor, zero: Tensor | None, axis: int | None) -> Tensor:
    """Return x − zero point in float64; a vector of zero points runs along ``axis``."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    offset = zero.to(torch.float64)
    if offset.numel() == 1:
        return wide - offset.reshape(())
    if offset.dim() == 1 and axis is not None:
        offset = offset.reshape(-1, *[1] * (x.dim() - 1 - axis % x.dim()))
    return wide - offset


def _requantised(total: Tensor, factor: Tensor, zero: Tensor) -> Tensor:
    """Scale integer sums, round half to even, add the zero point and saturate to its type."""
    if zero.dtype.is_floating_point:
        raise NotCoveredError("8-bit floats")
    limits = torch.iinfo(zero.dtype)
    y = torch.round(total.to(factor.dtype) * factor) + zero.to(factor.dtype)
    return torch.clamp(y, limits.min, limits.max).to(zero.dtype)


def _bytes(*shape: int, seed: int = 0, signed: bool = False) -> Array:
    low, kind = (-128, np.int8) if signed else (0, np.uint8)
    return integers(low, low + 256, *shape, seed=seed, dtype=kind)


def _matmul_examples(version: int) -> list[Example]:
    a, b = _bytes(3, 4), _bytes(4, 5, seed=1, signed=True)
    return [
        example(a, b),
        example(a, b, np.array(7, np.uint8), np.array(-3, np.int8)),
        example(a, b, np.array(7, np.uint8), integers(-9, 9, 5, dtype=np.int8)),
        example(_bytes(2, 3, 4), _bytes(2, 4, 5, seed=1)),
    ]


@operator("MatMulInteger", examples=_matmul_examples, macs=matmul_macs, differentiable=False)
def _matmul_integer(
    node: Node, a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    return (_centred(a, a_zero, -2) @ _centred(b, b_zero, -1)).to(torch.int32)


def _conv_examples(version: int) -> list[Example]:
    x, w = _bytes(1, 2, 5, 5), _bytes(3, 2, 3, 3, seed=1)
    return [
        example(x, w),
        example(x, w, np.array(9, np.uint8), np.array(4, np.uint8), pads=[1, 1, 1, 1]),
        example(x, w, np.array(9, np.uint8), strides=[2, 2], auto_pad="SAME_UPPER"),
    ]


@operator("ConvInteger", examples=_conv_examples, macs=conv_macs, differentiable=False)
def _conv_integer(
    node: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None
) -> Tensor:
    return convolved(node, _centred(x, x_zero, None), _centred(w, w_zero, 0)).to(torch.int32)


def _qlinear_matmul_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    return matmul_macs(node, [inputs[0], inputs[3]], outputs)


def _qlinear_conv_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    return conv_macs(node, [inputs[0], inputs[3]], outputs)


def _scalar(value: float) -> Array:
    return np.array(value, np.float32)


def _qlinear_matmul_examples(version: int) -> list[Example]:
    a, b, zero = _bytes(3, 4), _bytes(4, 5, seed=1), np.array(120, np.uint8)
    out = (_scalar(0.9), np.array(100, np.uint8))
    return [example(a, _scalar(0.02), zero, b, _scalar(0.05), zero, *out)]


@operator("QLinearMatMul", examples=_qlinear_matmul_examples, macs=_qlinear_matmul_macs, differentiable=False)
def _qlinear_matmul(node: Node, *inputs: Tensor) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    total = _centred(a, a_zero, -2) @ _centred(b, b_zero, -1)
    if a_scale.dim() == 1 and a_scale.numel() > 1:
        a_scale = a_scale.unsqueeze(-1)
    wide = torch.float64 if torch.float64 in (a_scale.dtype, b_scale.dtype) else torch.float32
    return _requantised(total, a_scale.to(wide) * b_scale.to(wide) / y_scale.to(wide), y_zero)


def _qlinear_conv_examples(version: int) -> list[Example]:
    x, w, zero = _bytes(1, 2, 5, 5), _bytes(3, 2, 3, 3, seed=1), np.array(120, np.uint8)
    signed, scales = _bytes(3, 2, 3, 3, seed=1, signed=True), uniform(0.02, 0.06, 3)
    bias = integers(-2000, 2000, 3, dtype=np.int32)
    out = (_scalar(0.9), np.array(100, np.uint8))
    return [
        example(x, _scalar(0.02), zero, w, _scalar(0.05), zero, *out),
        example(x, _scalar(0.02), zero, signed, scales, np.zeros(3, np.int8), *out, bias, pads=[1, 1, 1, 1]),
    ]


@operator("QLinearConv", examples=_qlinear_conv_examples, macs=_qlinear_conv_macs, differentiable=False)
def _qlinear_conv(node: Node, *inputs: Tensor) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = inputs[:8]
    total = convolved(node, _centred(x, x_zero, None), _centred(w, w_zero, 0))
    column = (-1, *[1] * (x.dim() - 2))
    if len(inputs) > 8:
        total = total + inputs[8].to(torch.float64).reshape(column)
    factor = x_scale.reshape(()) * (w_scale.reshape(column) if w_scale.numel() > 1 else w_scale.reshape(()))
    return _requantised(total, factor / y_scale.reshape(()), y_zero.reshape(()))
