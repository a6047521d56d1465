"""Sampling a feature map at given positions: GridSample, AffineGrid, RoiAlign, MaxRoiPool."""

from __future__ import annotations

import math

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import always, example, i64, normal, uniform
from onnxcompress.ops._torch import F, Tensor, torch
from onnxcompress.ops._types import ints


def _grid_examples(version: int) -> list[Example]:
    x, grid = normal(2, 3, 4, 5), uniform(-1.3, 1.3, 2, 3, 4, 2)
    names = ("bilinear", "nearest", "bicubic") if version < 20 else ("linear", "nearest", "cubic")
    cases = [
        example(x, grid, mode=mode, padding_mode=padding, align_corners=align)
        for mode in names
        for padding in ("zeros", "border", "reflection")
        for align in (0, 1)
    ]
    if version >= 20:
        cases.append(example(normal(1, 2, 3, 4, 5), uniform(-1.2, 1.2, 1, 2, 3, 4, 3)))
    return cases


@operator("GridSample", examples=_grid_examples)
def _grid_sample(node: Node, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(
        node.get("mode", "linear"), node.get("mode", "linear")
    )
    align = bool(node.get("align_corners", 0))
    grid = grid.to(x.dtype)
    return F.grid_sample(x, grid, mode, node.get("padding_mode", "zeros"), align)


@operator(
    "AffineGrid",
    examples=always(
        example(normal(2, 2, 3), i64(2, 3, 4, 5)),
        example(normal(2, 3, 4), i64(2, 3, 4, 5, 6), align_corners=1),
        example(normal(2, 2, 3), i64(2, 3, 1, 5), align_corners=1),
    ),
)
def _affine_grid(node: Node, theta: Tensor, size: Tensor) -> Tensor:
    sizes = ints(size)
    axes = []
    for length in sizes[2:]:
        steps = torch.arange(length, dtype=theta.dtype, device=theta.device)
        if node.get("align_corners", 0):
            axes.append(steps * (2 / (length - 1)) - 1 if length > 1 else steps + 1)
        else:
            axes.append((2 * steps + 1) / length - 1)
    mesh = torch.meshgrid(*axes, indexing="ij")
    points = torch.stack([*reversed(mesh), torch.ones_like(mesh[0])], -1)
    y = points.reshape(1, -1, points.shape[-1]) @ theta.transpose(1, 2)
    return y.reshape(sizes[0], *sizes[2:], -1)


def _roi_examples(version: int) -> list[Example]:
    x = normal(2, 3, 8, 9)
    rois = np.array([[0.5, 1.0, 6.0, 5.0], [2.0, 0.0, 8.5, 7.0], [-1.0, 2.0, 3.0, 9.0]], np.float32)
    shape = {"output_height": 2, "output_width": 3}
    cases = [
        Example((x, rois, i64(0, 1, 1)), {**shape, "sampling_ratio": 2}),
        Example((x, rois, i64(0, 1, 1)), {**shape, "spatial_scale": 0.5}),
    ]
    if version >= 16:
        how = {"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 2}
        cases.append(Example((x, rois, i64(0, 1, 1)), {**shape, **how}))
    return cases


@operator("RoiAlign", examples=_roi_examples)
def _roi_align(node: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    height, width = node.get("output_height", 1), node.get("output_width", 1)
    scale, ratio = node.get("spatial_scale", 1.0), node.get("sampling_ratio", 0)
    half = node.version >= 16 and node.get("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    pooled = []
    for roi, image in zip(rois, batch.tolist(), strict=True):
        left, top, right, bottom = (roi * scale - (0.5 if half else 0.0)).unbind()
        tall, wide = bottom - top, right - left
        if not half:
            tall, wide = torch.clamp(tall, min=1), torch.clamp(wide, min=1)
        rows = ratio or math.ceil(float(tall) / height)
        columns = ratio or math.ceil(float(wide) / width)
        y = top + _centres(height, rows, x) * tall / height
        z = left + _centres(width, columns, x) * wide / width
        samples = _bilinear(x[int(image)], y, z, node.get("mode", "avg") == "max")
        samples = samples.reshape(x.shape[1], height, rows, width, columns, -1)
        if node.get("mode", "avg") == "max":
            pooled.append(samples.amax((2, 4, 5)))
        else:
            pooled.append(samples.sum((2, 4, 5)) / max(rows * columns, 1))
    return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], height, width)


def _centres(bins: int, samples: int, x: Tensor) -> Tensor:
    """Return sample positions in units of bins: bin + (i + ½) / samples."""
    inner = (torch.arange(samples, dtype=x.dtype, device=x.device) + 0.5) / max(samples, 1)
    return (torch.arange(bins, dtype=x.dtype, device=x.device).unsqueeze(1) + inner).reshape(-1)


def _bilinear(image: Tensor, y: Tensor, x: Tensor, apart: bool) -> Tensor:
    """Return weighted corners (C, y, x, 1 or 4): summed, or apart, as maximum pooling wants them."""
    height, width = image.shape[1:]
    inside = ((y >= -1) & (y <= height)).unsqueeze(1) & ((x >= -1) & (x <= width))
    corners = []
    for iy, wy in _corners(y, height):
        for ix, wx in _corners(x, width):
            corners.append(image[:, iy][:, :, ix] * (wy.unsqueeze(1) * wx) * inside)
    stacked = torch.stack(corners, -1)
    return stacked if apart else stacked.sum(-1, keepdim=True)


def _corners(at: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    at = torch.clamp(at, min=0)
    low = torch.clamp(at.detach().floor().long(), max=size - 1)
    high = torch.clamp(low + 1, max=size - 1)
    at = torch.where(low >= size - 1, low.to(at.dtype), at)
    part = at - low
    return [(low, 1 - part), (high, part)]


@operator(
    "MaxRoiPool",
    examples=always(
        example(
            normal(2, 3, 8, 9),
            np.array([[0, 0, 1, 5, 6], [1, 2, 0, 8, 7]], np.float32),
            pooled_shape=[2, 3],
        )
    ),
)
def _max_roi_pool(node: Node, x: Tensor, rois: Tensor) -> Tensor:
    height, width = node.attributes["pooled_shape"]
    scale = node.get("spatial_scale", 1.0)
    pooled = []
    for roi in rois.tolist():
        left, top, right, bottom = (math.floor(v * scale + 0.5) for v in roi[1:])
        tall, wide = max(bottom - top + 1, 1), max(right - left + 1, 1)
        image = x[int(roi[0])]
        bins = []
        for i in range(height):
            for j in range(width):
                y0, y1 = top + math.floor(i * tall / height), top + math.ceil((i + 1) * tall / height)
                x0, x1 = left + math.floor(j * wide / width), left + math.ceil((j + 1) * wide / width)
                part = image[:, max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)]
                bins.append(part.amax((1, 2)) if part.numel() else part.new_zeros(x.shape[1]))
        pooled.append(torch.stack(bins, 1).reshape(x.shape[1], height, width))
    return torch.stack(pooled) if pooled else x.new_zeros(0, x.shape[1], height, width)
