"""Boxes, columns and deformed windows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxcompress.ops._base import Example, Node, NotCoveredError, Shape, operator
from onnxcompress.ops._examples import always, example, i64, normal, uniform
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import ints, number


def _boxes_examples(version: int) -> list[Example]:
    corners = np.sort(uniform(0, 1, 2, 10, 2, 2), axis=2).reshape(2, 10, 4)
    scores = uniform(0, 1, 2, 3, 10, seed=1)
    limit, overlap, least = i64(4), np.array([0.3], np.float32), np.array([0.4], np.float32)
    centred = np.concatenate(
        [(corners[..., :2] + corners[..., 2:]) / 2, corners[..., 2:] - corners[..., :2]], -1
    )
    return [
        example(corners, scores, limit, overlap, least),
        example(corners[..., [2, 1, 0, 3]].copy(), scores, limit, overlap),
        example(centred[..., [1, 0, 3, 2]].copy(), scores, limit, overlap, least, center_point_box=1),
        example(corners, scores),
    ]


@operator("NonMaxSuppression", examples=_boxes_examples, differentiable=False)
def _non_max_suppression(node: Node, boxes: Tensor, scores: Tensor, *limits: Tensor | None) -> Tensor:
    most, overlap, least = [*limits, None, None, None][:3]
    count, threshold = int(number(most, 0)), number(overlap, 0.0)
    floor = None if least is None else number(least, 0.0)
    if node.get("center_point_box", 0):
        centre, extent = boxes[..., :2], boxes[..., 2:] / 2
        low, high = centre - extent, centre + extent
    else:
        low, high = (f(boxes[..., :2], boxes[..., 2:]) for f in (torch.minimum, torch.maximum))
    chosen = []
    for batch in range(scores.shape[0]):
        overlaps = _overlaps(low[batch], high[batch]) > threshold
        for category in range(scores.shape[1]):
            for box in _kept(scores[batch, category], overlaps, count, floor):
                chosen.append([batch, category, box])
    return torch.tensor(chosen, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


def _overlaps(low: Tensor, high: Tensor) -> Tensor:
    """Return intersection over union of every pair of boxes."""
    area = (high - low).prod(-1)
    top = torch.maximum(low.unsqueeze(1), low)
    bottom = torch.minimum(high.unsqueeze(1), high)
    shared = torch.clamp(bottom - top, min=0).prod(-1)
    union = area.unsqueeze(1) + area - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


def _kept(scores: Tensor, overlapping: Tensor, count: int, least: float | None) -> list[int]:
    order = torch.sort(scores, descending=True, stable=True).indices.tolist()
    table, values = overlapping.cpu().numpy(), scores.tolist()
    kept: list[int] = []
    for box in order:
        if len(kept) >= count or (least is not None and values[box] <= least):
            break
        if not table[box, kept].any():
            kept.append(box)
    return kept


@operator(
    "Col2Im",
    examples=always(
        example(normal(2, 12, 6), i64(4, 4), i64(2, 2), strides=[2, 1]),
        example(normal(1, 18, 16), i64(5, 4), i64(3, 3), pads=[1, 1, 0, 1], dilations=[1, 1]),
        example(normal(1, 8, 12), i64(3, 4, 3), i64(2, 2, 2)),
    ),
)
def _col2im(node: Node, x: Tensor, image: Tensor, block: Tensor) -> Tensor:
    sizes, kernel = ints(image), ints(block)
    rank = len(sizes)
    strides, dilations = node.get("strides") or [1] * rank, node.get("dilations") or [1] * rank
    pads = node.get("pads") or [0] * 2 * rank
    wide = [sizes[i] + pads[i] + pads[i + rank] for i in range(rank)]
    flat = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
    for i in range(rank):
        count = (wide[i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        steps = torch.arange(kernel[i], device=x.device).unsqueeze(1) * dilations[i]
        at = steps + torch.arange(count, device=x.device) * strides[i]
        flat = (flat * wide[i]).reshape(flat.shape[0], 1, flat.shape[1], 1) + at.reshape(kernel[i], 1, count)
        flat = flat.reshape(flat.shape[0] * kernel[i], -1)
    columns = x.reshape(x.shape[0], -1, math.prod(kernel), x.shape[-1]).flatten(2)
    y = x.new_zeros(*columns.shape[:2], math.prod(wide))
    y = y.index_add(2, flat.reshape(-1), columns).reshape(*columns.shape[:2], *wide)
    for i in range(rank):
        y = y.narrow(2 + i, pads[i], sizes[i])
    return y


def _deform_macs(node: Node, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> int:
    weight = inputs[1]
    assert weight is not None
    return math.prod(outputs[0]) * math.prod(weight[1:])


@operator(
    "DeformConv",
    examples=always(
        example(normal(1, 2, 5, 5), normal(3, 2, 3, 3, seed=1), normal(1, 18, 3, 3, seed=2)),
        example(
            normal(2, 4, 5, 6), normal(6, 2, 2, 2, seed=1), normal(2, 16, 6, 7, seed=2) * np.float32(0.5),
            normal(6, seed=3), uniform(0, 1, 2, 8, 6, 7), group=2, offset_group=2, pads=[1, 1, 1, 1],
        ),
    ),
    macs=_deform_macs,
)  # fmt: skip
def _deform_conv(node: Node, x: Tensor, weight: Tensor, offset: Tensor, *rest: Tensor | None) -> Tensor:
    bias, mask = [*rest, None, None][:2]
    if x.dim() != 4:
        raise NotCoveredError("deformable convolution over other than 2 axes")
    n, c, height, width = x.shape
    out, _, kh, kw = weight.shape
    oh, ow = offset.shape[2:]
    groups, shared = node.get("group", 1), node.get("offset_group", 1)
    sh, sw = node.get("strides") or [1, 1]
    dh, dw = node.get("dilations") or [1, 1]
    top, left = (node.get("pads") or [0] * 4)[:2]
    moved = offset.reshape(n, shared, kh, kw, 2, oh, ow)
    rows = torch.arange(kh, device=x.device).reshape(-1, 1, 1, 1) * dh - top
    rows = rows + torch.arange(oh, device=x.device).reshape(-1, 1) * sh
    columns = torch.arange(kw, device=x.device).reshape(-1, 1, 1) * dw - left
    columns = columns + torch.arange(ow, device=x.device) * sw
    y, z = moved[:, :, :, :, 0] + rows, moved[:, :, :, :, 1] + columns
    sampled = _at(x.reshape(n, shared, c // shared, height * width), (height, width), y, z)
    if mask is not None:
        sampled = sampled * mask.reshape(n, shared, 1, kh, kw, oh, ow)
    sampled = sampled.reshape(n, groups, c // groups * kh * kw, oh * ow)
    result = weight.reshape(groups, out // groups, -1) @ sampled
    result = result.reshape(n, out, oh, ow)
    return result if bias is None else result + bias.reshape(-1, 1, 1)


def _at(x: Tensor, size: tuple[int, int], y: Tensor, z: Tensor) -> Tensor:
    """Return x (N G C pixels) at positions (N G …), bilinear, zero outside: (N G C …)."""
    height, width = size
    total: Tensor | None = None
    for iy, wy in ((y.floor(), 1 - (y - y.floor())), (y.floor() + 1, y - y.floor())):
        for iz, wz in ((z.floor(), 1 - (z - z.floor())), (z.floor() + 1, z - z.floor())):
            inside = (iy >= 0) & (iy < height) & (iz >= 0) & (iz < width)
            index = (iy.clamp(0, height - 1) * width + iz.clamp(0, width - 1)).long()
            flat = index.flatten(2).unsqueeze(2).expand(-1, -1, x.shape[2], -1)
            value = x.gather(3, flat).reshape(*x.shape[:3], *y.shape[2:])
            part = value * (wy * wz * inside).unsqueeze(2)
            total = part if total is None else total + part
    assert total is not None
    return total
