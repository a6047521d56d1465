"""How much an output depends on the input: its spread over examples, beside the reference's."""

from __future__ import annotations

import math

import numpy as np

from onnxcompress.core.encoding import Array

_CHUNK = 1 << 20
"""Elements looked at at a time."""

_LEAST = 1e-3
"""A reference that varies by less, relative to its size, says nothing: most of that may be rounding."""


class Spread:
    """Accumulates how far the outputs of examples are from those of the first one, on both sides.

    The first axis counts examples; so do calls.
    """

    def __init__(self) -> None:
        self._first: tuple[Array, Array] | None = None
        self._examples = 0
        self._known = True
        self._size = self._expected = self._actual = 0.0

    def add(self, expected: Array, actual: Array) -> None:
        """Take in the output of one call, floating-point arrays of equal shape."""
        if not self._known or expected.ndim == 0 or expected.size == 0:
            return
        rows = expected.reshape(len(expected), -1), actual.reshape(len(actual), -1)
        if self._first is None:
            self._first = rows[0][0].astype(np.float64), rows[1][0].astype(np.float64)
        if self._first[0].size != rows[0].shape[1]:
            self._known = False
            return
        at_once = max(1, _CHUNK // rows[0].shape[1])
        for start in range(0, len(rows[0]), at_once):
            one, other = (side[start : start + at_once].astype(np.float64) for side in rows)
            self._size += float(np.square(one).sum())
            self._expected += float(np.square(one - self._first[0]).sum())
            self._actual += float(np.square(other - self._first[1]).sum())
        self._examples += len(rows[0])

    def ratio(self) -> float | None:
        """Return how much the output varies as share of how much the reference does.

        None where that cannot be told: a single example, sizes that differ, values that are no numbers, or a
        reference that hardly varies itself.
        """
        sums = self._size, self._expected, self._actual
        if not self._known or self._examples < 2 or not all(math.isfinite(s) for s in sums):
            return None
        if self._expected <= _LEAST**2 * self._size or self._expected == 0:
            return None
        return math.sqrt(self._actual / self._expected)
