"""Labels: classes or values, checked against the output they are for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.columns import Column

_CHUNK = 8192

Dims = tuple[int | None, ...]


@dataclass(frozen=True)
class Labels:
    """The labels of all examples.

    Attributes:
        column: as stored.
        kind: ``"classes"`` (whole numbers from 0) or ``"values"`` (targets of a regression).
        one_hot: stored one-hot along the last axis; turned into class numbers when read.
        output: the output they are for, None where outputs are not known.
        classes: number of classes of that output, None where unknown or for values.
    """

    column: Column
    kind: Literal["classes", "values"]
    one_hot: bool
    output: str | None
    classes: int | None

    def take(self, indices: Array) -> Array:
        """Return the labels at ``indices``: int64 class numbers, or float32 values."""
        stack = self.column.take(indices)
        if self.one_hot:
            return np.asarray(stack.argmax(axis=-1), np.int64)
        if self.kind == "classes":
            if stack.ndim > 1 and math.prod(stack.shape[1:]) == 1:
                stack = stack.reshape(len(stack))
            return stack.astype(np.int64)
        return stack.astype(np.float32)


def read_labels(key: str, column: Column, outputs: Sequence[tuple[str, Dims]], origin: str) -> Labels:
    """Check the labels of ``key`` against the outputs (name, shape of one example) and say what they are.

    Raises DataError where they fit no output, are not numbers, hold NaN, or name a class that is not there.
    """
    if column.dtype.kind not in "biuf":
        raise DataError(f"labels '{key}' are not numbers", where=origin, why=f"found type {column.dtype}")
    whole, one_hot = _scan(key, column, origin)
    shape = column.shape[1:]
    scalar = math.prod(shape) == 1
    for name, dims in outputs:
        classes = _classes(shape, scalar, dims) if whole else None
        if classes is not None and not (one_hot and _same(shape, dims)):
            found = Labels(column, "classes", False, name, classes)
            _check_range(key, found, origin)
            return found
        if _same(shape, dims) or (scalar and _size(dims) == 1):
            many = one_hot and len(shape) > 0 and shape[-1] > 1
            return Labels(column, "classes" if many else "values", many, name, shape[-1] if many else None)
    if not outputs:
        kind: Literal["classes", "values"] = "classes" if whole and scalar else "values"
        return Labels(column, kind, False, None, None)
    raise DataError(
        f"labels '{key}' fit no output",
        where=origin,
        why=f"one label has shape {_words(shape)}, one example of "
        + ", ".join(f"'{name}' {_words(dims)}" for name, dims in outputs),
        fix="--labels names others; with --labels none the original model teaches",
    )


def class_axis(label: Sequence[int], scores: Sequence[int | None]) -> int | None:
    """Return the axis of an example's scores that counts classes for labels of this shape; None: no fit.

    >>> class_axis((), (10,)), class_axis((8, 8), (21, 8, 8)), class_axis((5,), (5, 30))
    (0, 0, 1)
    """
    if len(scores) == len(label) + 1:
        if _same(label, scores[1:]):
            return 0
        if _same(label, scores[:-1]):
            return len(scores) - 1
    return None


def _classes(shape: tuple[int, ...], scalar: bool, dims: Dims) -> int | None:
    """Return the number of classes if whole-number labels of this shape can name classes of that output."""
    if scalar:
        large = [d for d in dims if d != 1]
        return large[0] if len(large) == 1 and large[0] is not None else None
    axis = class_axis(shape, dims)
    return dims[axis] if axis is not None else None


def _same(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    return len(shape) == len(dims) and all(d is None or s == d for s, d in zip(shape, dims, strict=True))


def _size(dims: Dims) -> int | None:
    return None if None in dims else math.prod(d for d in dims if d is not None)


def _words(dims: Sequence[Any]) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


def _chunks(column: Column) -> Iterator[Array]:
    for start in range(0, column.shape[0], _CHUNK):
        yield column.take(np.arange(start, min(start + _CHUNK, column.shape[0])))


def _scan(key: str, column: Column, origin: str) -> tuple[bool, bool]:
    """Return whether all labels are whole numbers, and whether they are one-hot; NaN is an error."""
    whole = True
    one_hot = len(column.shape) > 1 and column.shape[-1] > 1
    for start, chunk in enumerate(_chunks(column)):
        if chunk.dtype.kind == "f":
            bad = ~np.isfinite(chunk)
            if bad.any():
                at = start * _CHUNK + int(np.argwhere(bad)[0][0])
                raise DataError(f"labels '{key}' hold NaN or infinity", where=f"{origin}, example {at}")
            whole = whole and bool((chunk == np.floor(chunk)).all())
        if one_hot:
            one_hot = bool(((chunk == 0) | (chunk == 1)).all() and (chunk.sum(axis=-1) == 1).all())
    return whole, one_hot


def _check_range(key: str, labels: Labels, origin: str) -> None:
    low = min(int(chunk.min()) for chunk in _chunks(labels.column))
    high = max(int(chunk.max()) for chunk in _chunks(labels.column))
    assert labels.classes is not None
    if low < 0 or high >= labels.classes:
        raise DataError(
            f"labels '{key}' are out of range",
            where=origin,
            why=f"found {low} to {high}, but output '{labels.output}' has {labels.classes} classes, "
            f"0 to {labels.classes - 1}",
            fix="subtract 1" if low == 1 and high == labels.classes else "check the order of the classes",
        )
