"""What a channel that is constant, but not zero, adds to each output of the node that sums over it.

With ``x_j = c_j`` for every input, ``W x = W x|_{x_j = 0} + W[:, j] c_j``: the channel can be cut if the last
term goes into the consumer's bias. A convolution that pads with zeros adds less at its border, so that no
bias is the same there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.channels import Site
from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.measures.costs import as_node
from onnxcompress.ops._base import Node


@dataclass(frozen=True, eq=False)
class Shift:
    """A constant that is the same along every axis of a node's output but one.

    Attributes:
        values: float64, one for each position along ``axis``.
        axis: of the output, counted from the front.
    """

    values: Array
    axis: int


def shift_of(channels: Channels, site: Site, values: Array) -> Shift | str:
    """Return what constant positions of a site add to its node's output, or why that is no bias, in words.

    Args:
        channels: the analysed model.
        site: where the positions are summed over.
        values: the constant of each position along the site's axis, 0 for those that are not constant.
    """
    node = as_node(site.node, channels.model.ir.opset_imports)
    rule = _RULES.get(node.op_type) if not node.domain else None
    if rule is None:
        return f"{node.op_type} has no bias that could take in a constant"
    other = site.node.inputs[1 - site.slot] if site.slot in (0, 1) and len(site.node.inputs) > 1 else None
    operand = None if other is None else channels.constant(other.name or "")
    data = site.node.inputs[site.slot]
    if operand is None or data is None:
        return f"what {node.op_type} multiplies the channels with is not a constant"
    names = (data.name or "", site.node.outputs[0].name or "")
    shapes = (channels.shape(names[0]), channels.shape(names[1]))
    return rule(node, site, operand.astype(np.float64), np.asarray(values, np.float64), shapes)


Shapes = tuple[Sequence[int], Sequence[int]]
"""Of the activation, of the node's output."""


def _gemm(node: Node, site: Site, operand: Array, values: Array, shapes: Shapes) -> Shift | str:
    alpha = float(node.get("alpha", 1.0))
    if site.slot == 0:
        matrix = operand.T if node.get("transB", 0) else operand
        return Shift(alpha * (values @ matrix), 1)
    matrix = operand.T if node.get("transA", 0) else operand
    return Shift(alpha * (matrix @ values), 0)


def _matmul(node: Node, site: Site, operand: Array, values: Array, shapes: Shapes) -> Shift | str:
    if operand.ndim != 2 or len(shapes[0]) < 2:
        return "a batch of matrices has no common bias"
    rank = len(shapes[1])
    if site.slot == 0:
        return Shift(values @ operand, rank - 1)
    return Shift(operand @ values, rank - 2)


def _conv(node: Node, site: Site, operand: Array, values: Array, shapes: Shapes) -> Shift | str:
    if site.slot != 0:
        return "the channels are those of the kernel"
    kernel = operand.shape[2:]
    if _pads(node, kernel, shapes[0][2:]):
        return "the convolution pads with zeros, so that the constant is another at the border"
    groups = int(node.get("group", 1))
    summed = operand.reshape(groups, -1, operand.shape[1], int(np.prod(kernel))).sum(3)
    return Shift(np.einsum("goc,gc->go", summed, values.reshape(groups, -1)).ravel(), 1)


def _pads(node: Node, kernel: Sequence[int], spatial: Sequence[int]) -> bool:
    """Tell whether a convolution reads zeros from outside its input."""
    auto = str(node.get("auto_pad", "NOTSET"))
    if auto == "NOTSET":
        return any(int(p) != 0 for p in node.get("pads") or ())
    if auto == "VALID":
        return False
    strides = list(node.get("strides") or [1] * len(kernel))
    dilations = list(node.get("dilations") or [1] * len(kernel))
    return any(
        (-(-size // stride) - 1) * stride + (k - 1) * dilation + 1 > size
        for size, stride, dilation, k in zip(spatial, strides, dilations, kernel, strict=True)
    )


_RULES = {"Gemm": _gemm, "MatMul": _matmul, "Conv": _conv}
