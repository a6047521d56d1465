"""Pooling over windows and over whole feature maps."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, normal
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import ints
from onnxcompress.ops._windows import Windows, padded, unfolded, windows


def _pool_examples(version: int) -> list[Example]:
    x = normal(2, 3, 7, 6)
    cases = [
        example(x, kernel_shape=[3, 2]),
        example(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2]),
        example(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        example(x, kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"),
        example(x, kernel_shape=[2, 3], strides=[2, 1], auto_pad="SAME_LOWER"),
        example(normal(2, 3, 8), kernel_shape=[3], strides=[2]),
        example(normal(1, 2, 4, 5, 4), kernel_shape=[2, 2, 2], strides=[2, 1, 2]),
    ]
    if version >= 10:
        cases.append(example(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1))
        cases.append(example(x, kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1))
    return cases


def _max_examples(version: int) -> list[Example]:
    cases, x = _pool_examples(version), normal(2, 3, 7, 6)
    if version >= 8:
        cases.append(example(x, kernel_shape=[2, 3], strides=[2, 2], pads=[0, 1, 1, 1], outputs=2))
        cases.append(example(x, kernel_shape=[2, 2], strides=[2, 2], storage_order=1, outputs=2))
    if version >= 10:
        cases.append(example(x, kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 0, 0]))
    return cases


@operator("MaxPool", examples=_max_examples)
def _max_pool(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    if not x.is_floating_point():  # 8-bit integers are exact in float32
        pooled = _max_pool_float(node, x.float())
        return (pooled[0].to(x.dtype), pooled[1]) if isinstance(pooled, tuple) else pooled.to(x.dtype)
    return _max_pool_float(node, x)


def _max_pool_float(node: Node, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    w = windows(node, x.shape[2:], kernel, pooling=True)
    indexed = len(node.outputs) > 1 and node.outputs[1]
    if rank > 3:
        y = padded(x, w.reach, -math.inf)
        for axis in range(rank):
            y = unfolded(y, w, axis).amax(y.dim() - rank + axis + 1)
        return y
    padding = w.symmetric
    if (
        padding is None
        or any(2 * p > k for p, k in zip(padding, kernel, strict=True))
        or node.get("ceil_mode", 0)
    ):
        wide, padding, shift = padded(x, w.reach, -math.inf), [0] * rank, [low for low, _ in w.reach]
    else:
        wide, shift = x, [0] * rank
    function: Any = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    result = function(wide, kernel, w.strides, padding, w.dilations, return_indices=indexed)
    if not indexed:
        pooled: Tensor = result
        return pooled
    return result[0], _flat_indices(node, result[1], x.shape, wide.shape, shift)


def _half(padding: list[int], kernel: list[int]) -> bool:
    """Return whether torch's pooling takes this padding: half a window at most."""
    return all(0 <= 2 * p <= k for p, k in zip(padding, kernel, strict=True))


def _flat_indices(node: Node, index: Tensor, shape: torch.Size, wide: torch.Size, shift: list[int]) -> Tensor:
    """Turn indices inside a padded feature map into indices inside the whole tensor N C d1 …."""
    rank = len(shift)
    coordinates: list[Tensor] = []
    for axis in reversed(range(rank)):
        coordinates.insert(0, index % wide[2 + axis] - shift[axis])
        index = index // wide[2 + axis]
    flat = torch.zeros_like(coordinates[0])
    order = reversed(range(rank)) if node.get("storage_order", 0) else range(rank)
    for axis in order:
        flat = flat * shape[2 + axis] + coordinates[axis]
    maps = torch.arange(shape[0] * shape[1], device=flat.device) * math.prod(shape[2:])
    return flat + maps.reshape(shape[0], shape[1], *[1] * rank)


def _average_examples(version: int) -> list[Example]:
    cases, x = _pool_examples(version), normal(2, 3, 7, 6)
    if version >= 7:
        padded_case: dict[str, Any] = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 2]}
        cases.append(example(x, **padded_case, count_include_pad=1))
    if version >= 10:
        cases.append(
            example(
                x, kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=1
            )
        )
    if version >= 19:
        cases.append(example(x, kernel_shape=[2, 2], dilations=[2, 3], pads=[1, 1, 0, 0]))
        cases.append(example(x, kernel_shape=[2, 1], strides=[4, 3], auto_pad="SAME_UPPER"))
        cases.append(example(x, kernel_shape=[2, 2], dilations=[2, 3], auto_pad="SAME_LOWER"))
    return cases


@operator("AveragePool", examples=_average_examples)
def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    w = windows(node, x.shape[2:], kernel, pooling=True)
    include = bool(node.get("count_include_pad", 0))
    padding = w.symmetric
    plain = all(d == 1 for d in w.dilations) and not node.get("ceil_mode", 0) and rank <= 3
    if plain and padding is not None and _half(padding, kernel):
        function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
        y: Tensor = function(x, kernel, w.strides, padding, False, include)
        return y
    counted = x.new_ones(1, 1, *x.shape[2:])
    if include:
        counted = padded(counted, w.pads, 1.0)
        # what ceil_mode adds beyond the padding never counts
        beyond = [(0, far[1] - near[1]) for far, near in zip(w.reach, w.pads, strict=True)]
    else:
        beyond = list(w.reach)
    return _window_sums(padded(x, w.reach), w) / _window_sums(padded(counted, beyond), w)


def _window_sums(x: Tensor, w: Windows) -> Tensor:
    rank = len(w.kernel)
    for axis in range(rank):
        x = unfolded(x, w, axis).sum(x.dim() - rank + axis + 1)
    return x


def _lp_examples(version: int) -> list[Example]:
    x = normal(2, 3, 7, 6)
    cases = [
        example(x, kernel_shape=[3, 2], p=3 if version > 1 else 3.0),
        example(x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 1, 2]),
        example(normal(2, 3, 8), kernel_shape=[3], strides=[2], auto_pad="SAME_UPPER"),
    ]
    if version >= 18:
        cases.append(example(x, kernel_shape=[2, 2], dilations=[2, 2], ceil_mode=1))
    return cases


@operator("LpPool", examples=_lp_examples)
def _lp_pool(node: Node, x: Tensor) -> Tensor:
    p = node.get("p", 2)
    w = windows(node, x.shape[2:], node.attributes["kernel_shape"], pooling=True)
    total = _window_sums(padded(torch.pow(x.abs(), p), w.reach), w)
    # at zero the root has no finite gradient, which would make that of a whole window of zeros no number
    empty = total == 0
    return torch.where(empty, total, torch.pow(torch.where(empty, torch.ones_like(total), total), 1 / p))


_MAPS = always(example(normal(2, 3, 4, 5)), example(normal(2, 3, 6)))


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


@operator("GlobalAveragePool", examples=_MAPS)
def _global_average_pool(node: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True) if x.dim() > 2 else x


@operator("GlobalMaxPool", examples=_MAPS)
def _global_max_pool(node: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True) if x.dim() > 2 else x


@operator("GlobalLpPool", examples=_MAPS)
def _global_lp_pool(node: Node, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), _spatial(x), keepdim=True)
    return norm


def _unpool_examples(version: int) -> list[Example]:
    index = np.array([5, 7, 13, 15], dtype=np.int64).reshape(1, 1, 2, 2)
    x = normal(1, 1, 2, 2)
    sized = example(x, index, np.array([1, 1, 5, 5], dtype=np.int64), kernel_shape=[2, 2], strides=[2, 2])
    return [example(x, index, kernel_shape=[2, 2], strides=[2, 2]), sized]


@operator("MaxUnpool", examples=_unpool_examples)
def _max_unpool(node: Node, x: Tensor, index: Tensor, shape: Tensor | None = None) -> Tensor:
    kernel = node.attributes["kernel_shape"]
    rank = len(kernel)
    strides, pads = node.get("strides") or [1] * rank, node.get("pads") or [0] * 2 * rank
    natural = [(x.shape[2 + i] - 1) * strides[i] - pads[i] - pads[i + rank] + kernel[i] for i in range(rank)]
    # indices count inside the shape asked for, as in onnxruntime
    sizes = ints(shape) or [*x.shape[:2], *natural]
    flat = x.new_zeros(math.prod(sizes))
    return flat.scatter(0, index.reshape(-1), x.reshape(-1)).reshape(sizes)
