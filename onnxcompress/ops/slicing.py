"""Cutting tensors apart and joining them along axes."""

from __future__ import annotations

from typing import Any

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, i64, normal, since
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import ints, positive_axis


@operator(
    "Concat",
    examples=always(
        example(normal(2, 3), normal(2, 1, seed=1), axis=1), example(normal(2, 3), normal(1, 3), axis=0)
    ),
)
def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis", 1))


def _split_examples(version: int) -> list[Example]:
    x = normal(6, 4)
    if version < 13:
        return [example(x, axis=0, split=[2, 4], outputs=2), example(x, axis=1, outputs=2)]
    cases = [example(x, i64(2, 4), outputs=2), example(x, i64(1, 3), axis=-1, outputs=2)]
    if version < 18:
        return [*cases, example(x, axis=1, outputs=2)]
    return [*cases, example(normal(7, 2), num_outputs=3, outputs=3)]


@operator("Split", examples=_split_examples)
def _split(node: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    sizes = ints(node.get("split") if split is None else split)
    if not sizes:
        count = node.get("num_outputs", len(node.outputs))
        chunk = -(-x.shape[axis] // count)
        sizes = [chunk] * (count - 1) + [x.shape[axis] - chunk * (count - 1)]
    return tuple(torch.split(x, sizes, axis))


def _slice_examples(version: int) -> list[Example]:
    x = normal(5, 6, 3)
    if version < 10:
        cut = example(x, starts=[1, -3], ends=[4, 1000], axes=[0, 1])
        return [cut, example(x, starts=[1, 0], ends=[-1, 2])]
    return [
        example(x, i64(1, -3), i64(4, 1000), i64(0, 1)),
        example(x, i64(1, 0), i64(-1, 2)),
        example(x, i64(-1, 5), i64(-1000, 1), i64(0, 1), i64(-1, -2)),
        example(x, i64(0), i64(2**62), i64(-2), i64(4)),
        example(x, i64(4), i64(2), i64(0)),
        example(x, i64(-9), i64(-99), i64(1), i64(-2)),
    ]


def _range(start: int, end: int, step: int, size: int) -> range:
    """Return the indices taken; going backwards, a start before the first element means the first."""
    start, end = (v + size if v < 0 else v for v in (start, end))
    if step > 0:
        return range(min(max(start, 0), size), min(max(end, 0), size), step)
    return range(min(max(start, 0), size - 1), min(max(end, -1), size - 1), step)


@operator("Slice", examples=_slice_examples)
def _slice(node: Node, x: Tensor, *bounds: Tensor | None) -> Tensor:
    starts, ends, axes, steps = [*bounds, None, None, None, None][:4]
    begin = ints(node.get("starts") if starts is None else starts)
    end = ints(node.get("ends") if ends is None else ends)
    along = ints(node.get("axes") if axes is None else axes) or list(range(len(begin)))
    step = ints(steps) or [1] * len(begin)
    index: list[Any] = [slice(None)] * x.dim()
    flipped = []
    for b, e, axis, stride in zip(begin, end, along, step, strict=True):
        dim = positive_axis(axis, x.dim())
        taken = _range(b, e, stride, x.shape[dim])
        if stride < 0:  # torch slices forwards only
            flipped.append(dim)
            taken = taken[::-1]
        index[dim] = slice(taken.start, taken.stop, taken.step) if len(taken) else slice(0, 0)
    x = x[tuple(index)]
    return x.flip(flipped) if flipped else x


@operator(
    "Gather",
    examples=since(
        {
            1: [example(normal(5, 4), i64(1, 3)), example(normal(5, 4), i64(0, 2, 2).reshape(1, 3), axis=1)],
            11: [
                example(normal(5, 4), i64(1, -2)),
                example(normal(5, 4), i64(0, 2, -1, 1).reshape(2, 2), axis=1),
                example(normal(5, 4), i64(2).reshape(()), axis=-1),
            ],
        }
    ),
)
def _gather(node: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = positive_axis(node.get("axis", 0), x.dim())
    index = indices.long()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return x.select(axis, int(indices))
    flat = torch.where(index < 0, index + x.shape[axis], index).reshape(-1)
    return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
