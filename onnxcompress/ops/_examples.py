"""Inputs for the examples of operators: seeded, small, away from kinks where gradients are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.ops._base import Example

Examples = Callable[[int], Iterable[Example]]


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Standard normal numbers."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(dtype)


def uniform(low: float, high: float, *shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    """Uniform numbers in [low, high)."""
    return np.asarray(np.random.default_rng(seed).uniform(low, high, shape)).astype(dtype)


def integers(low: int, high: int, *shape: int, seed: int = 0, dtype: Any = np.int64) -> Array:
    """Integers in [low, high)."""
    return np.asarray(np.random.default_rng(seed).integers(low, high, shape)).astype(dtype)


def bools(*shape: int, seed: int = 0) -> Array:
    """Fair coin flips."""
    return np.asarray(np.random.default_rng(seed).random(shape) < 0.5)


def i64(*values: int) -> Array:
    """A 1-D int64 array, as shapes and axes are given."""
    return np.array(values, dtype=np.int64)


def f32(*values: float) -> Array:
    """A 1-D float32 array."""
    return np.array(values, dtype=np.float32)


def example(*inputs: Array | None, outputs: int = 1, **attributes: Any) -> Example:
    """One case."""
    return Example(inputs, attributes, outputs)


def always(*cases: Example) -> Examples:
    """The same cases at every version."""
    return lambda version: cases


def since(table: Mapping[int, Iterable[Example]]) -> Examples:
    """The cases of the newest entry that is not above the version."""
    return lambda version: table[max(v for v in table if v <= version)]
