"""The broadcasting of operator sets before 7, and reduction of many inputs by a binary function."""

from __future__ import annotations

from collections.abc import Callable

from onnxcompress.ops._base import Node
from onnxcompress.ops._torch import Tensor


def aligned(node: Node, x: Tensor, y: Tensor) -> Tensor:
    """Return ``y`` shaped so that NumPy broadcasting does what the node means.

    Before version 7 (and in the operators that never had a version 7) ``axis`` says at which axis of
    ``x`` the shape of ``y`` starts.
    """
    axis = node.get("axis")
    if node.version >= 7 or axis is None or not node.get("broadcast", 0):
        return y
    trailing = x.dim() - (axis + x.dim() if axis < 0 else axis) - y.dim()
    return y.reshape(*y.shape, *[1] * trailing)


def folded(function: Callable[[Tensor, Tensor], Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
    """Return ``function(function(a, b), c) …``."""
    result = inputs[0]
    for other in inputs[1:]:
        result = function(result, other)
    return result
