"""Operators that only rearrange elements: shape, order, blocks."""

from __future__ import annotations

import math

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, i64, normal, since
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import ints, positive_axis


def _reshape_examples(version: int) -> list[Example]:
    x = normal(2, 3, 4)
    if version < 5:
        return [example(x, shape=[4, 6]), example(x, shape=[0, -1])]
    cases = [example(x, i64(4, -1)), example(x, i64(0, 0, 2, -1))]
    if version >= 14:
        cases.append(example(normal(0, 3), i64(3, 0), allowzero=1))
    return cases


@operator("Reshape", examples=_reshape_examples)
def _reshape(node: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    sizes = ints(node.get("shape") if shape is None else shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


@operator("Flatten", examples=always(example(normal(2, 3, 4)), example(normal(2, 3, 4), axis=2)))
def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = positive_axis(node.get("axis", 1), x.dim())
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose", examples=always(example(normal(2, 3, 4)), example(normal(2, 3, 4), perm=[1, 2, 0])))
def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(range(x.dim()))[::-1])


def _squeeze_examples(version: int) -> list[Example]:
    x = normal(1, 3, 1, 4)
    if version < 13:
        return [example(x, axes=[0, 2]), example(x)]
    return [example(x, i64(0)), example(x, i64(-2)), example(x)]


@operator("Squeeze", examples=_squeeze_examples)
def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    wanted = ints(node.get("axes") if axes is None else axes)
    return x.squeeze(tuple(wanted)) if wanted else x.squeeze()


@operator(
    "Unsqueeze",
    examples=since(
        {
            1: [example(normal(3, 4), axes=[0, 2])],
            13: [example(normal(3, 4), i64(2, 0)), example(normal(3, 4), i64(-1))],
        }
    ),
)
def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    wanted = ints(node.get("axes") if axes is None else axes)
    rank = x.dim() + len(wanted)
    for axis in sorted(positive_axis(a, rank) for a in wanted):
        x = x.unsqueeze(axis)
    return x


@operator("Identity", examples=always(example(normal(2, 3))), arrays=True)
def _identity(node: Node, x: Tensor) -> Tensor:
    return x


@operator("Expand", examples=always(example(normal(3, 1), i64(2, 1, 4)), example(normal(3, 4), i64(1, 1))))
def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(ints(shape))))


@operator(
    "Tile",
    examples=since(
        {
            1: [example(normal(2, 3), np.array(2, np.float32), np.array(1, np.float32))],
            6: [example(normal(2, 3), i64(2, 1))],
        }
    ),
)
def _tile(node: Node, x: Tensor, repeats: Tensor, axis: Tensor | None = None) -> Tensor:
    if node.version >= 6 or axis is None:
        return x.repeat(ints(repeats))
    counts = [1] * x.dim()
    counts[ints(axis)[0]] = ints(repeats)[0]
    return x.repeat(counts)


@operator(
    "DepthToSpace",
    examples=since(
        {
            1: [example(normal(2, 8, 3, 2), blocksize=2)],
            11: [
                example(normal(2, 8, 3, 2), blocksize=2),
                example(normal(2, 8, 3, 2), blocksize=2, mode="CRD"),
            ],
        }
    ),
)
def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    block = node.attributes["blocksize"]
    n, c, h, w = x.shape
    depth = c // block**2
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(n, block, block, depth, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, depth, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, depth, h * block, w * block)


@operator("SpaceToDepth", examples=always(example(normal(2, 3, 4, 6), blocksize=2)))
def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    block = node.attributes["blocksize"]
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block)
    y = y.permute(0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else y.permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


@operator("Trilu", examples=always(example(normal(2, 4, 5)), example(normal(4, 5), np.array(1), upper=0)))
def _trilu(node: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k)
    return torch.triu(x, diagonal) if node.get("upper", 1) else torch.tril(x, diagonal)


@operator(
    "ReverseSequence",
    examples=always(
        example(normal(4, 3, 2), i64(4, 2, 1)),
        example(normal(3, 4, 2), i64(4, 2, 3), batch_axis=0, time_axis=1),
    ),
)
def _reverse_sequence(node: Node, x: Tensor, lengths: Tensor) -> Tensor:
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device).unsqueeze(1)
    reach = lengths.to(torch.int64).unsqueeze(0)
    source = torch.where(steps < reach, reach - 1 - steps, steps)
    moved = x.movedim((time, batch), (0, 1))
    picked = moved[source, torch.arange(x.shape[batch], device=x.device).unsqueeze(0)]
    return picked.movedim((0, 1), (time, batch))


@operator(
    "CenterCropPad",
    examples=always(example(normal(5, 8, 3), i64(6, 5, 3)), example(normal(5, 8, 3), i64(9), axes=[1])),
)
def _center_crop_pad(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    axes = node.get("axes") or list(range(x.dim()))
    for axis, size in zip(axes, ints(shape), strict=True):
        dim, have = positive_axis(axis, x.dim()), x.shape[axis]
        if size < have:
            x = x.narrow(dim, (have - size) // 2, size)
        elif size > have:
            before = (size - have) // 2
            padding = [0, 0] * x.dim()
            padding[2 * (x.dim() - 1 - dim)] = before
            padding[2 * (x.dim() - 1 - dim) + 1] = size - have - before
            x = F.pad(x, padding)
    return x
