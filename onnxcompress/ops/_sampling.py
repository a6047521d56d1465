"""Where the elements of a resized axis come from: coordinates, taps and weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import NotCoveredError


@dataclass(frozen=True)
class Axis:
    """One axis to resize, from ``size`` to ``length`` elements.

    ``region`` is the (start, end) of ``tf_crop_and_resize``, in units of the axis.
    """

    size: int
    length: int
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Sampling:
    """How a node samples, from its attributes."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False


def positions(axis: Axis, how: Sampling, dtype: type[np.floating[Any]] = np.float64) -> Array:
    """Return the coordinate in the input of every output element, calculated in ``dtype``."""
    out: Array = np.arange(axis.length, dtype=dtype)
    mode, scale, last = how.coordinates, float(dtype(axis.scale)), axis.size - 1
    if mode == "asymmetric":
        return out / scale
    if mode == "align_corners":
        # from the rounded length, as onnxruntime does; the reference takes scale × size
        return out * last / (axis.length - 1) if axis.length > 1 else out * 0
    if mode == "half_pixel":
        return (out + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (out + 0.5) / scale - 0.5 if axis.length > 1 else out * 0
    if mode == "half_pixel_symmetric":
        offset = axis.size / 2 * (1 - axis.length / (scale * axis.size))
        return offset + (out + 0.5) / scale - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (out + 0.5) / scale
    if mode == "tf_crop_and_resize":
        start, end = axis.region
        if axis.length == 1:
            return out * 0 + (start + end) * last / 2
        return start * last + out * (end - start) * last / (axis.length - 1)
    raise NotCoveredError(f"coordinate_transformation_mode {mode!r}")


def nearest(axis: Axis, how: Sampling) -> Array:
    """Return the input index of every output element."""
    # in float32, as onnxruntime calculates: ties depend on it
    x = positions(axis, how, np.float32)
    if how.nearest == "simple":  # before version 11
        index = np.ceil(x) if axis.scale < 1 else np.floor(x)
    elif how.nearest == "floor":
        index = np.floor(x)
    elif how.nearest == "ceil":
        index = np.ceil(x)
    elif how.nearest == "round_prefer_ceil":
        index = np.floor(x + 0.5)
    else:
        index = np.ceil(x - 0.5)
    return np.clip(index, 0, axis.size - 1).astype(np.int64)


def taps(axis: Axis, how: Sampling) -> tuple[Array, Array]:
    """Return input indices and weights, both (length, taps), of linear or cubic interpolation."""
    x = positions(axis, how)
    base = np.floor(x)
    ratio = (x - base)[:, None]
    radius = 1 if how.mode == "linear" else 2
    shrink = min(axis.scale, 1.0) if how.antialias else 1.0
    first = math.floor(-radius / shrink) + 1
    steps = np.arange(first, 2 - first if radius == 2 else first + 2 - 2 * first)[None, :]
    distance = np.abs(steps - ratio) * shrink
    linear = how.mode == "linear"
    weights = np.clip(1 - distance, 0, None) if linear else _cubic(distance, how.cubic)
    index = base[:, None].astype(np.int64) + steps
    if how.exclude_outside:
        weights = np.where((index < 0) | (index >= axis.size), 0, weights)
    if how.exclude_outside or how.antialias:
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
    return np.clip(index, 0, axis.size - 1), weights


def _cubic(d: Array, a: float) -> Array:
    """Keys' kernel (1981, equation 15) with free parameter ``a``."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def outside(axis: Axis, how: Sampling) -> Array | None:
    """Return which output elements lie outside the input; None where extrapolation does not apply."""
    if how.coordinates != "tf_crop_and_resize":
        return None
    x = positions(axis, how)
    beyond = (x < 0) | (x > axis.size - 1)
    return beyond if beyond.any() else None
