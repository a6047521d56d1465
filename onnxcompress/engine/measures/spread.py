"""How much an output depends on the input: its spread beside the reference's, and what is lost of that."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array

_CHUNK = 1 << 20
"""Elements looked at at a time, and most elements of a call that is kept to compare others with."""

_LEAST = 1e-3
"""A reference that varies by less, relative to its size, says nothing: most of that may be rounding."""


CALLS = 10
"""Calls from which on their variance is taken for that of examples."""


class Spread:
    """Accumulates how far outputs are from the first one, on both sides.

    The first axis may count examples; so do calls. Whether it does is not known: boxes of a detector without
    a batch differ from each other whatever the input is. So both are looked at.
    """

    def __init__(self) -> None:
        self._rows, self._calls = _Sums(), _Sums()
        self._first: tuple[Array, Array] | None = None
        self._width = 0

    def add(self, expected: Array, actual: Array) -> None:
        """Take in the output of one call, floating-point arrays of equal shape."""
        if expected.size == 0:
            return
        width = expected.size // len(expected) if expected.ndim else 0
        if self._first is None:
            self._first, self._width = (_kept(expected), _kept(actual)), width
        if expected.size > _CHUNK or self._first[0].size != expected.size:
            self._calls.known = False
        else:
            self._calls.add(expected.reshape(1, -1), actual.reshape(1, -1), self._first)
        if width == 0 or width != self._width:
            self._rows.known = False
            return
        first = self._first[0][:width], self._first[1][:width]
        rows = expected.reshape(-1, width), actual.reshape(-1, width)
        at_once = max(1, _CHUNK // width)
        for start in range(0, len(rows[0]), at_once):
            some = slice(start, start + at_once)
            self._rows.add(rows[0][some], rows[1][some], first)

    def give_up(self) -> None:
        """Take it that examples cannot be told apart: one side had more than the other."""
        self._rows.known = self._calls.known = False

    def ratio(self) -> float | None:
        """Return how much the output varies as share of how much the reference does.

        Of that over the first axis and that over calls the smaller one. None where it cannot be told: a
        single example, sizes that differ, values that are no numbers, or a reference that hardly varies.
        """
        found = [r for r in (self._rows.ratio(), self._calls.ratio()) if r is not None]
        return min(found, default=None)

    def lost(self) -> float | None:
        """Return the fraction of variance unexplained, 1 − R²: mean square error over the variance.

        The variance is the reference's over examples, place by place: what is the same for all, like the grid
        that boxes are decoded with, makes a relative error small and leaves this as it is. Of that over the
        first axis and that over ``CALLS`` calls or more the larger one; None as for ``ratio``.
        """
        told = [self._rows, self._calls] if self._calls.examples >= CALLS else [self._rows]
        return max((r for sums in told if (r := sums.lost()) is not None), default=None)


@dataclass
class _Sums:
    """Sums of squares: of the reference, of both sides' ways from their first, and apart; the sum of ways."""

    known: bool = True
    examples: int = 0
    size: float = 0.0
    expected: float = 0.0
    actual: float = 0.0
    apart: float = 0.0
    way: Array | float = 0.0

    def add(self, expected: Array, actual: Array, first: tuple[Array, Array]) -> None:
        one, other = expected.astype(np.float64), actual.astype(np.float64)
        self.examples += len(one)
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number says so in the sums
            self.size += float(np.square(one).sum())
            self.expected += float(np.square(one - first[0]).sum())
            self.actual += float(np.square(other - first[1]).sum())
            self.apart += float(np.square(other - one).sum())
            self.way = self.way + (one - first[0]).sum(0)

    def ratio(self) -> float | None:
        return math.sqrt(self.actual / self.expected) if self._tells() else None

    def lost(self) -> float | None:
        if not self._tells():
            return None
        varies = self.expected - float(np.square(self.way).sum()) / self.examples
        if not varies > _LEAST**2 * self.size:
            return None
        return self.apart / varies * (self.examples - 1) / self.examples

    def _tells(self) -> bool:
        sums = self.size, self.expected, self.actual, self.apart
        if not self.known or self.examples < 2 or not all(math.isfinite(s) for s in sums):
            return False
        return self.expected > _LEAST**2 * self.size and self.expected > 0


def _kept(output: Array) -> Array:
    """Return what later outputs are compared with: the first call's, of a large one its first row alone."""
    row = output if output.ndim == 0 or output.size <= _CHUNK else output[0]
    return row.astype(np.float64).reshape(-1)
