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


Binary = Literal["logit", "probability"]
"""What a single number for two classes is: it speaks for class 1 above 0, or above one half."""


@dataclass(frozen=True)
class Labels:
    """The labels of all examples.

    Attributes:
        column: as stored.
        kind: ``"classes"`` (whole numbers from 0) or ``"values"`` (targets of a regression).
        one_hot: axis of a label along which it is stored one-hot, and turned into class numbers when read.
        output: the output they are for, None where outputs are not known.
        classes: number of classes of that output, None where unknown or for values.
        binary: what the output is where it is one number for two classes, else None.
    """

    column: Column
    kind: Literal["classes", "values"]
    one_hot: int | None
    output: str | None
    classes: int | None
    binary: Binary | None = None

    def take(self, indices: Array) -> Array:
        """Return the labels at ``indices``: int64 class numbers, or float32 values."""
        stack = self.column.take(indices)
        if self.one_hot is not None:
            return np.asarray(stack.argmax(axis=self.one_hot + 1), np.int64)
        if self.kind == "classes":
            if stack.ndim > 1 and math.prod(stack.shape[1:]) == 1:
                stack = stack.reshape(len(stack))
            return stack.astype(np.int64)
        return stack.astype(np.float32)


def fitting_labels(
    key: str, column: Column, outputs: Sequence[tuple[str, Dims]], origin: str
) -> tuple[Labels, ...]:
    """Return what the labels of ``key`` may be, in the order of the outputs (name, shape of one example).

    Whole numbers name classes where an output has as many; they may be values of one that is a number.
    Zeros and ones name the two classes of an output with a single number, taken for a logit here.

    Raises DataError where they fit no output, are not numbers, hold NaN, or name a class that is not there.
    """
    if column.dtype.kind not in "biuf":
        raise DataError(f"labels '{key}' are not numbers", where=origin, why=f"found type {column.dtype}")
    found = _scan(key, column, origin)
    shape = column.shape[1:]
    scalar = math.prod(shape) == 1
    if not outputs:
        kind: Literal["classes", "values"] = "classes" if found.whole and scalar else "values"
        return (Labels(column, kind, None, None, None),)
    named: list[Labels] = []
    values: list[Labels] = []
    beyond: list[Labels] = []
    for name, dims in outputs:
        same = _same(shape, dims)
        hot = next((axis for axis in found.one_hot if shape[axis] > 1), None) if same else None
        classes = _classes(shape, scalar, dims) if found.whole else None
        if hot is not None:
            named.append(Labels(column, "classes", hot, name, shape[hot]))
        elif classes is not None:
            fits = found.low >= 0 and found.high < classes
            (named if fits else beyond).append(Labels(column, "classes", None, name, classes))
        elif scalar and _size(dims) == 1 and found.whole and found.low >= 0 and found.high <= 1:
            named.append(Labels(column, "classes", None, name, 2, "logit"))
        elif same or (scalar and _size(dims) == 1):
            values.append(Labels(column, "values", None, name, None))
    if beyond and not named:
        raise _out_of_range(key, found, beyond[0], origin)
    if named or values:
        return (*named, *values)
    raise DataError(
        f"labels '{key}' fit no output",
        where=origin,
        why=f"one label has shape {_words(shape)}, one example of "
        + ", ".join(f"'{name}' {_words(dims)}" for name, dims in outputs),
        fix="--labels names others; with --labels none the original model teaches",
    )


def two_classes(values: Array, binary: Binary) -> Array:
    """Return scores of two classes (N 2) of one number an example.

    >>> two_classes(np.array([[-1.5], [2.0]]), "logit").tolist()
    [[0.0, -1.5], [0.0, 2.0]]
    >>> two_classes(np.array([0.25]), "probability").tolist()
    [[0.75, 0.25]]
    """
    one = values.reshape(len(values))
    return np.stack([np.zeros_like(one) if binary == "logit" else 1 - one, one], axis=1)


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


@dataclass(frozen=True)
class _Scan:
    """What all labels have in common: whole numbers, one-hot along these axes of a label, their range."""

    whole: bool
    one_hot: tuple[int, ...]
    low: float
    high: float


def _scan(key: str, column: Column, origin: str) -> _Scan:
    """Look at all labels; NaN is an error."""
    whole, low, high = True, math.inf, -math.inf
    rank = len(column.shape) - 1
    one_hot = tuple(dict.fromkeys(axis for axis in (rank - 1, 0) if 0 <= axis < rank))
    for start, chunk in enumerate(_chunks(column)):
        if chunk.dtype.kind == "f":
            bad = ~np.isfinite(chunk)
            if bad.any():
                at = start * _CHUNK + int(np.argwhere(bad)[0][0])
                raise DataError(f"labels '{key}' hold NaN or infinity", where=f"{origin}, example {at}")
            whole = whole and bool((chunk == np.floor(chunk)).all())
        if chunk.size:
            low, high = min(low, float(chunk.min())), max(high, float(chunk.max()))
        bits = bool(((chunk == 0) | (chunk == 1)).all())
        one_hot = tuple(axis for axis in one_hot if bits and bool((chunk.sum(axis=axis + 1) == 1).all()))
    return _Scan(whole, one_hot, low, high)


def _out_of_range(key: str, found: _Scan, labels: Labels, origin: str) -> DataError:
    assert labels.classes is not None
    return DataError(
        f"labels '{key}' are out of range",
        where=origin,
        why=f"found {found.low:g} to {found.high:g}, but output '{labels.output}' has {labels.classes} "
        f"classes, 0 to {labels.classes - 1}",
        fix="subtract 1" if (found.low, found.high) == (1, labels.classes) else "check their order",
    )
