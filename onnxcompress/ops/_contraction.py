"""Convolution and multiply-accumulate counts, which plain and quantised operators share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from onnxcompress.ops._base import Node, NotCoveredError, Shape
from onnxcompress.ops._torch import F, Tensor
from onnxcompress.ops._windows import padded, windows


def conv_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return output elements × input channels of a group × kernel elements; the weight is input 1."""
    weight = inputs[1]
    assert weight is not None
    return math.prod(outputs[0]) * math.prod(weight[1:])


def matmul_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    """Return output elements × length of the contracted axis, the last of the first input."""
    x = inputs[0]
    assert x is not None
    inner = x[-2] if node.get("transA", 0) and len(x) > 1 else x[-1]
    return math.prod(outputs[0]) * inner


def convolved(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return the convolution a node's attributes describe."""
    rank = weight.dim() - 2
    if not 1 <= rank <= 3:
        raise NotCoveredError(f"convolution over {rank} axes")
    w = windows(node, x.shape[2:], weight.shape[2:])
    padding = w.symmetric
    if padding is None:
        x, padding = padded(x, w.reach), [0] * rank
    function: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    y: Tensor = function(x, weight, bias, w.strides, padding, w.dilations, node.get("group", 1))
    return y
