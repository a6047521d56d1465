"""Sorted rows of numbers with prefix sums: what every one-dimensional clustering works on."""

from __future__ import annotations

from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array

_FULL = 1 << 22
"""Up to this many numbers every prefix sum is kept; above, every ``_STEP``-th, to bound memory."""
_STEP = 16
_CHUNK = 1 << 20


class SortedRows:
    """Independent problems of equal length, one a row, sorted ascending.

    Attributes:
        values: (rows, n), sorted along the second axis, in the type of the input.
        rows: number of problems.
        n: numbers in each.
    """

    def __init__(self, values: Array) -> None:
        self.values = np.sort(values, axis=1)
        self.rows, self.n = self.values.shape
        self._squares: Array | None = None
        self._step = 1 if self.values.size <= _FULL or self.rows > 1 else _STEP
        self._prefix = self._full_prefix() if self._step == 1 else self._thin_prefix()

    def sums(self, positions: Array) -> Array:
        """Return the sum of the first ``positions`` numbers of each row; positions are (rows, …) integers."""
        flat = positions.reshape(self.rows, -1)
        if self._step == 1:
            found = np.take_along_axis(self._prefix, flat, axis=1)
            return found.reshape(positions.shape)
        block = flat // self._step
        inside = block[..., None] * self._step + np.arange(self._step)
        tail = self.values[0].take(np.minimum(inside, self.n - 1)).astype(np.float64)
        tail *= inside < flat[..., None]
        found = np.asarray(self._prefix[0].take(block) + tail.sum(axis=-1))
        return found.reshape(positions.shape)

    def row(self, index: int) -> SortedRows:
        """Return one row as a problem of its own."""
        one = object.__new__(SortedRows)
        one.values, one.rows, one.n = self.values[index : index + 1], 1, self.n
        one._squares = None
        one._step, one._prefix = self._step, self._prefix[index : index + 1]
        return one

    def square_sums(self) -> Array:
        """Return the sum of the squares of each row, (rows,)."""
        if self._squares is None:
            step = max(1, _CHUNK // self.rows)
            chunks = (self.values[:, i : i + step] for i in range(0, self.n, step))
            total = np.zeros(self.rows)
            for chunk in chunks:
                total += np.square(chunk, dtype=np.float64).sum(axis=1)
            self._squares = total
        return self._squares

    def _full_prefix(self) -> Array:
        prefix = np.zeros((self.rows, self.n + 1))
        np.cumsum(self.values, axis=1, dtype=np.float64, out=prefix[:, 1:])
        return prefix

    def _thin_prefix(self) -> Array:
        blocks = self.n // self._step
        prefix: Array = np.zeros((1, blocks + 1))
        whole = self.values[0, : blocks * self._step].reshape(blocks, self._step)
        for start in range(0, blocks, _CHUNK // self._step):
            part = whole[start : start + _CHUNK // self._step]
            prefix[0, 1 + start : 1 + start + len(part)] = part.astype(np.float64).sum(axis=1)
        np.cumsum(prefix[0], out=prefix[0])
        return prefix


def distinct(row: Array, limit: int) -> Array | None:
    """Return the distinct values of a sorted row, or None where there are more than ``limit``."""
    found: list[Any] = []
    position = 0
    while position < len(row):
        if len(found) == limit:
            return None
        found.append(row[position])
        position = int(np.searchsorted(row, row[position], side="right"))
    return np.asarray(found, dtype=row.dtype)


def distinct_counts(row: Array, limit: int) -> tuple[Array, Array] | None:
    """Return the distinct values of a sorted row, float64, and how often each occurs; None if too many."""
    starts = [np.zeros(1, dtype=np.int64)]
    found = 1
    for first in range(1, len(row), _CHUNK):
        part = row[first - 1 : first + _CHUNK]
        steps = first + np.flatnonzero(part[1:] != part[:-1])
        found += len(steps)
        if found > limit:
            return None
        starts.append(steps)
    places = np.concatenate(starts)
    return row[places].astype(np.float64), np.diff(places, append=len(row))
