"""Convolution and transposed convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxcompress.ops._base import Example, Node, NotCoveredError, Shape, operator
from onnxcompress.ops._contraction import conv_macs, convolved
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._windows import padded


def _transposed_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    x, weight = inputs[:2]
    assert x is not None
    assert weight is not None
    return math.prod(x) * math.prod(weight[1:])


def _conv_examples(version: int) -> list[Example]:
    x, w, b = normal(2, 4, 7, 6), normal(6, 4, 3, 3, seed=1), normal(6, seed=2)
    return [
        example(x, w, b, kernel_shape=[3, 3]),
        example(x, w, pads=[1, 0, 2, 1], strides=[2, 1]),
        example(x, w, b, pads=[2, 2, 2, 2], dilations=[2, 2]),
        example(
            x, normal(8, 2, 3, 2, seed=1), normal(8, seed=2), group=2, auto_pad="SAME_UPPER", strides=[2, 2]
        ),
        example(x, normal(4, 1, 2, 3, seed=1), group=4, auto_pad="SAME_LOWER"),
        example(x, w, b, auto_pad="VALID", strides=[2, 2]),
        example(normal(2, 3, 9), normal(4, 3, 3, seed=1), normal(4, seed=2), pads=[1, 1]),
        example(normal(1, 2, 4, 5, 4), normal(3, 2, 2, 3, 2, seed=1)),
    ]


@operator("Conv", examples=_conv_examples, macs=conv_macs)
def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return convolved(node, x, weight, bias)


def _conv_transpose_examples(version: int) -> list[Example]:
    x, w, b = normal(2, 4, 3, 4), normal(4, 3, 3, 3, seed=1), normal(3, seed=2)
    return [
        example(x, w, b),
        example(x, w, strides=[3, 2], pads=[1, 2, 1, 2]),
        example(x, w, b, strides=[3, 2], pads=[0, 1, 2, 0], output_padding=[1, 1]),
        example(x, w, strides=[3, 2], output_shape=[10, 8]),
        example(x, w, b, strides=[3, 2], output_shape=[8, 8], auto_pad="SAME_UPPER"),
        example(x, w, strides=[3, 2], output_shape=[8, 8], auto_pad="SAME_LOWER"),
        example(x, w, b, strides=[2, 2], auto_pad="SAME_UPPER"),
        example(x, w, strides=[2, 2], auto_pad="SAME_LOWER"),
        example(x, normal(4, 3, 2, 4, seed=1), strides=[3, 3], auto_pad="SAME_UPPER"),
        example(x, w, strides=[2, 2], auto_pad="VALID"),
        example(x, w, dilations=[2, 2]),
        example(x, normal(4, 2, 2, 2, seed=1), normal(4, seed=2), group=2, strides=[2, 2]),
        example(normal(1, 2, 5), normal(2, 3, 3, seed=1), strides=[2]),
        example(normal(1, 2, 2, 3, 2), normal(2, 1, 2, 2, 2, seed=1), strides=[2, 2, 2]),
    ]


@operator("ConvTranspose", examples=_conv_transpose_examples, macs=_transposed_macs)
def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rank = weight.dim() - 2
    if not 1 <= rank <= 3:
        raise NotCoveredError(f"transposed convolution over {rank} axes")
    strides = node.get("strides") or [1] * rank
    dilations = node.get("dilations") or [1] * rank
    extra = node.get("output_padding") or [0] * rank
    full = [
        strides[i] * (x.shape[2 + i] - 1) + extra[i] + (weight.shape[2 + i] - 1) * dilations[i] + 1
        for i in range(rank)
    ]
    crops = [_crop(node, i, full, x.shape[2 + i] * strides[i]) for i in range(rank)]
    function: Any = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
    group = node.get("group", 1)
    y: Tensor
    if all(low == high >= 0 and e < max(s, d) for (low, high), e, s, d in zip(
        crops, extra, strides, dilations, strict=True
    )):  # fmt: skip
        y = function(x, weight, bias, strides, [low for low, _ in crops], extra, group, dilations)
        return y
    y = function(x, weight, None, strides, 0, 0, group, dilations)
    y = padded(y, [(-low, e - high) for (low, high), e in zip(crops, extra, strict=True)])
    return y if bias is None else y + bias.reshape(-1, *[1] * rank)


def _crop(node: Node, i: int, full: list[int], same: int) -> tuple[int, int]:
    """Return how much of the full result, output padding included, is cut at both ends of axis ``i``.

    ``same`` is the size that SAME padding asks for. A negative cut is padding with zeros.
    """
    rank = len(full)
    mode = node.get("auto_pad", "NOTSET")
    shape = node.get("output_shape")
    if shape:
        total = full[i] - shape[i - rank]
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        total = max(full[i] - same, 0)
    elif mode == "VALID":
        return 0, 0
    else:
        pads = node.get("pads") or [0] * 2 * rank
        return pads[i], pads[i + rank]
    if total < 0:
        return 0, total
    half = total // 2
    # what onnxruntime does at every version; the first versions of the specification say the opposite
    return (half, total - half) if mode == "SAME_UPPER" else (total - half, half)


@operator(
    "CausalConvWithState",
    examples=always(
        example(normal(2, 3, 5), normal(3, 1, 4), normal(3), outputs=2),
        example(normal(2, 3, 5), normal(3, 1, 4), None, normal(2, 3, 3), activation="silu", outputs=2),
    ),
    macs=conv_macs,
)
def _causal_conv(
    node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None, past: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    keep = weight.shape[2] - 1
    if past is None:
        past = x.new_zeros(x.shape[0], x.shape[1], keep)
    joined = torch.cat([past, x], 2)
    y = F.conv1d(joined, weight, bias, groups=x.shape[1])
    if node.get("activation", "none") in ("silu", "swish"):
        y = F.silu(y)
    return y, joined[:, :, joined.shape[2] - keep :]
