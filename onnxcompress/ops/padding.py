"""Pad, in all its modes; negative pads cut."""

from __future__ import annotations

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import example, i64, normal
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import ints, positive_axis


def _pad_examples(version: int) -> list[Example]:
    x = normal(3, 4, 5)
    pads = [0, 1, 2, 1, 0, 3]
    if version == 1:
        return [example(x, paddings=pads, value=0.5)]
    if version < 11:
        return [
            example(x, pads=pads, value=0.5),
            example(x, pads=[0, 1, -2, 1, 0, 3]),
            example(x, pads=[0, 1, 2, 0, 0, 3], mode="edge"),
            example(x, pads=[0, 1, 2, 0, 0, 3], mode="reflect"),
        ]
    half = np.array(0.5, dtype=np.float32)
    cases = [
        example(x, i64(*pads), half),
        example(x, i64(0, 1, -2, 1, 0, 3)),
        example(x, i64(0, 1, 2, 0, 0, 3), mode="edge"),
        example(x, i64(0, 1, 2, 0, 0, 3), mode="reflect"),
    ]
    if version >= 18:
        cases.append(example(x, i64(1, 2, 0, 1), half, i64(-1, 0)))
    if version >= 19:
        cases.append(example(x, i64(0, 1, 2, 0, 0, 3), mode="wrap"))
    return cases


@operator("Pad", examples=_pad_examples)
def _pad(
    node: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    amounts = ints(node.get("pads", node.get("paddings")) if pads is None else pads)
    along = [positive_axis(a, x.dim()) for a in ints(axes)] or list(range(x.dim()))
    before, after = [0] * x.dim(), [0] * x.dim()
    for i, axis in enumerate(along):
        before[axis], after[axis] = amounts[i], amounts[i + len(along)]
    mode = node.get("mode", "constant")
    if mode == "constant":
        given = value is not None and value.numel()
        fill = value.reshape(-1)[0].item() if value is not None and given else node.get("value", 0.0)
        flat = [p for axis in reversed(range(x.dim())) for p in (before[axis], after[axis])]
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), flat, value=float(bool(fill))).to(torch.bool)
        return F.pad(x, flat, value=fill)
    for axis in range(x.dim()):
        if before[axis] or after[axis]:
            x = _extended(x, axis, before[axis], after[axis], mode)
    return x


def _extended(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Pad one axis with elements of its own."""
    cut_before, cut_after = max(-before, 0), max(-after, 0)
    x = x.narrow(axis, cut_before, x.shape[axis] - cut_before - cut_after)
    size = x.shape[axis]
    index = torch.arange(-max(before, 0), size + max(after, 0), device=x.device)
    if mode == "edge":
        index = index.clamp(0, size - 1)
    elif mode == "wrap":
        index = index % size
    else:
        period = max(2 * (size - 1), 1)
        index = index.abs() % period
        index = torch.where(index >= size, period - index, index)
    return x.index_select(axis, index)
