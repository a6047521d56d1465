"""Resize and Upsample, axis by axis: interpolation is separable."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxcompress.ops._base import Example, Node, operator
from onnxcompress.ops._examples import example, f32, i64, normal
from onnxcompress.ops._sampling import Axis, Sampling, nearest, outside, taps
from onnxcompress.ops._torch import Tensor, torch
from onnxcompress.ops._types import ints, positive_axis


def _examples(version: int) -> list[Example]:
    x = normal(1, 2, 4, 5)
    if version == 10:
        return [
            example(x, f32(1, 1, 2, 3)),
            example(x, f32(1, 1, 0.6, 0.6)),
            example(x, f32(1, 1, 2, 1.4), mode="linear"),
        ]
    none, up, down = np.zeros(0, np.float32), f32(1, 1, 2, 1.7), f32(1, 1, 0.6, 0.7)
    sized = i64(1, 2, 7, 3)
    cases = [
        example(x, none, up),
        example(x, none, f32(1, 1, 2, 3), coordinate_transformation_mode="asymmetric"),
    ]
    for mode in ("nearest", "linear", "cubic"):
        for where in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
            for scales in (up, down):
                cases.append(example(x, none, scales, mode=mode, coordinate_transformation_mode=where))
        cases.append(example(x, none, none, sized, mode=mode))
    for rounding in ("floor", "ceil", "round_prefer_ceil", "round_prefer_floor"):
        cases.append(example(x, none, none, sized, nearest_mode=rounding))
    cases.append(example(x, none, up, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5))
    region = f32(0, 0, 0.2, -0.1, 1, 1, 0.8, 1.3)
    crop: dict[str, Any] = {
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 9.0,
    }
    cases.append(example(x, region, none, i64(1, 2, 3, 6), mode="linear", **crop))
    if version >= 18:
        cases += [example(x, None, down, mode=mode, antialias=1) for mode in ("linear", "cubic")]
        cases.append(example(x, None, None, i64(6, 7), axes=[2, 3], mode="linear"))
        for policy in ("not_larger", "not_smaller"):
            cases.append(example(x, None, None, i64(7, 8), axes=[2, 3], keep_aspect_ratio_policy=policy))
    if version >= 19:
        where = "half_pixel_symmetric"
        cases.append(example(x, None, down, mode="linear", coordinate_transformation_mode=where))
    return cases


@operator("Resize", examples=_examples)
def _resize(node: Node, x: Tensor, *arguments: Tensor | None) -> Tensor:
    if node.version < 11:
        scales = arguments[0]
        assert scales is not None
        return _sampled(x, list(range(x.dim())), _scaled(x, scales.tolist()), _simple(node), 0.0)
    roi, scales, sizes = [*arguments, None, None][:3]
    axes = [positive_axis(a, x.dim()) for a in node.get("axes") or range(x.dim())]
    if sizes is not None and sizes.numel():
        plan = _sized(node, x, axes, ints(sizes))
    else:
        assert scales is not None
        plan = _scaled(x, scales.tolist(), axes)
    how = Sampling(
        node.get("mode", "nearest"),
        node.get("coordinate_transformation_mode", "half_pixel"),
        node.get("nearest_mode", "round_prefer_floor"),
        node.get("cubic_coeff_a", -0.75),
        bool(node.get("exclude_outside", 0)),
        bool(node.get("antialias", 0)),
    )
    if how.coordinates == "tf_crop_and_resize" and roi is not None and roi.numel():
        bounds, count = roi.tolist(), len(axes)
        plan = [Axis(a.size, a.length, a.scale, (bounds[i], bounds[i + count])) for i, a in enumerate(plan)]
    return _sampled(x, axes, plan, how, node.get("extrapolation_value", 0.0))


def _scaled(x: Tensor, scales: list[float], axes: list[int] | None = None) -> list[Axis]:
    chosen = list(range(x.dim())) if axes is None else axes
    return [
        Axis(x.shape[a], int(np.float32(s) * np.float32(x.shape[a])), float(s))
        for a, s in zip(chosen, scales, strict=True)
    ]


def _sized(node: Node, x: Tensor, axes: list[int], sizes: list[int]) -> list[Axis]:
    have = [x.shape[a] for a in axes]
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [Axis(n, s, s / n if n else 1.0) for n, s in zip(have, sizes, strict=True)]
    ratios = [s / n for n, s in zip(have, sizes, strict=True)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [Axis(n, int(np.floor(scale * n + 0.5)), scale) for n in have]


def _sampled(x: Tensor, axes: list[int], plan: list[Axis], how: Sampling, beyond: float) -> Tensor:
    """Resize one axis after the other; axes that stay as they are are left alone.

    A node that changes no length copies, whatever its scales are, and so does every axis with
    antialiasing: onnxruntime's short cuts.
    """
    crop = how.coordinates == "tf_crop_and_resize"
    if not crop and all(axis.length == axis.size for axis in plan):
        return x
    kind = x.dtype
    if how.mode != "nearest" and not x.is_floating_point():
        x = x.to(torch.float32)
    for dim, axis in zip(axes, plan, strict=True):
        same = axis.length == axis.size
        if same and (how.antialias or (axis.scale == 1.0 and axis.region == (0.0, 1.0))):
            continue
        x = _picked(x, dim, axis, how) if how.mode == "nearest" else _blended(x, dim, axis, how)
        mask = outside(axis, how)
        if mask is not None:
            shape = [-1, *[1] * (x.dim() - dim - 1)]
            x = x.masked_fill(torch.from_numpy(mask).to(x.device).reshape(shape), beyond)
    return x.to(kind)


def _picked(x: Tensor, dim: int, axis: Axis, how: Sampling) -> Tensor:
    index = nearest(axis, how)
    times = axis.length // max(axis.size, 1)
    if times and np.array_equal(index, np.arange(axis.length) // times) and axis.length == times * axis.size:
        return x.repeat_interleave(times, dim)
    return x.index_select(dim, torch.from_numpy(index).to(x.device))


def _blended(x: Tensor, dim: int, axis: Axis, how: Sampling) -> Tensor:
    if axis.length == 0:
        return x.narrow(dim, 0, 0)
    index, weights = taps(axis, how)
    shape = [-1, *[1] * (x.dim() - dim - 1)]
    total: Tensor | None = None
    for k in range(index.shape[1]):
        if not weights[:, k].any():
            continue
        part = x.index_select(dim, torch.from_numpy(np.ascontiguousarray(index[:, k])).to(x.device))
        weight = torch.from_numpy(np.ascontiguousarray(weights[:, k])).to(x.device, x.dtype)
        part = part * weight.reshape(shape)
        total = part if total is None else total + part
    assert total is not None
    return total


def _simple(node: Node) -> Sampling:
    """How Upsample and the first Resize sample."""
    mode = {"bilinear": "linear"}.get(node.get("mode", "nearest"), node.get("mode", "nearest"))
    return Sampling(mode, "asymmetric", "simple")


def _upsample_examples(version: int) -> list[Example]:
    x = normal(1, 2, 3, 4)
    if version == 1:
        return [example(x, height_scale=2.0, width_scale=3.0)]
    if version == 7:
        return [
            example(x, scales=[1.0, 1.0, 2.0, 3.0]),
            example(x, scales=[1.0, 1.0, 2.0, 1.5], mode="linear"),
        ]
    whole = example(x, f32(1, 1, 2, 3))
    # version 10 only says that Resize took over: nothing but the reference still runs it, and nearest only
    return [whole, example(x, f32(1, 1, 2, 1.5), mode="linear")] if version == 9 else [whole]


@operator("Upsample", examples=_upsample_examples)
def _upsample(node: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    if scales is not None:
        factors = scales.tolist()
    elif node.version == 1 and "scales" not in node.attributes:
        factors = [1.0, 1.0, node.attributes["height_scale"], node.attributes["width_scale"]]
    else:
        factors = list(node.attributes["scales"])
    return _sampled(x, list(range(x.dim())), _scaled(x, factors), _simple(node), 0.0)
