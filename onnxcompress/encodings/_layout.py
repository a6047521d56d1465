"""How a weight is a matrix, and which ranks of it are worth having."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onnxcompress.core.encoding import Array

Scheme = Literal["auto", "1", "2"]

WORTH = 0.95
"""Factors that cost more than this share of the whole weight do not pay."""

_FINE = 4
"""Widths that are no multiple of this are slow in onnxruntime."""


@dataclass(frozen=True)
class Layout:
    """How a weight is a matrix: the axes that run along its rows and those along its columns, in order.

    A convolution out × in × kh × kw by scheme 1 has rows (0,) and columns (1, 2, 3): r filters of the whole
    kernel, then a 1×1 convolution; by scheme 2 rows (0, 2) and columns (1, 3): 1 × kw, then kh × 1.
    """

    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def sides(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return (n, m) of the matrix."""
        return math.prod(shape[a] for a in self.rows), math.prod(shape[a] for a in self.columns)

    def matrix(self, weight: Array) -> Array:
        """Return the weight as an (n, m) matrix."""
        return np.transpose(weight, (*self.rows, *self.columns)).reshape(self.sides(weight.shape))

    def weight(self, matrix: Array, shape: Sequence[int]) -> Array:
        """Return an (n, m) matrix as a weight of this shape."""
        dealt = matrix.reshape([shape[a] for a in (*self.rows, *self.columns)])
        return np.ascontiguousarray(np.transpose(dealt, self.order))

    @property
    def turned(self) -> Layout:
        """The layout of the transposed matrix."""
        return Layout(self.columns, self.rows)

    @property
    def order(self) -> tuple[int, ...]:
        """Where each axis of the weight is among those of the matrix, rows first."""
        return tuple(int(i) for i in np.argsort((*self.rows, *self.columns)))


def layouts_of(rank: int, scheme: Scheme = "auto") -> tuple[Layout, ...]:
    """Return the layouts of a weight of ``rank`` axes; scheme 2 is for kernels, so for 3 axes or more.

    >>> layouts_of(4)
    (Layout(rows=(0,), columns=(1, 2, 3)), Layout(rows=(0, 2), columns=(1, 3)))
    """
    first = Layout((0,), tuple(range(1, rank)))
    if rank < 3 or scheme == "1":
        return (first,)
    second = Layout((0, 2), (1, *range(3, rank)))
    return (second,) if scheme == "2" else (first, second)


def most_useful(shape: Sequence[int], layout: Layout) -> int:
    """Return the largest rank whose factors hold clearly fewer weights than the weight itself; may be 0."""
    n, m = layout.sides(shape)
    return max(0, math.ceil(WORTH * n * m / max(n + m, 1)) - 1)


def ranks_up_to(most: int, round_to: int = 1) -> Array:
    """Return the ranks to choose from: multiples of ``round_to``, of 4 below that, and any below 4.

    >>> ranks_up_to(40, 16), ranks_up_to(3, 16)
    (array([ 4,  8, 12, 16, 32]), array([1, 2, 3]))
    """
    fine = math.gcd(round_to, _FINE)
    found = {*range(fine, min(most + 1, round_to), fine), *range(round_to, most + 1, round_to)}
    return np.array(sorted(found or range(1, most + 1)), np.int64)
