"""Low rank: the truncated SVD of a matrix, and what every rank leaves over."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxcompress.core.encoding import Array

SMALL = 300
"""Matrices with a longer shorter side are decomposed through their Gram matrix."""


@dataclass(frozen=True, eq=False)
class Decomposition:
    """The singular value decomposition of one matrix.

    Attributes:
        matrix: (n, m) float64.
        values: (min(n, m),) float64, the singular values, descending.
        basis: float64, the singular vectors of the shorter side as columns: (n, n) where n ≤ m, else (m, m).
    """

    matrix: Array
    values: Array
    basis: Array

    def left_over(self) -> Array:
        """Return the squared error of every rank from 0 on: ``Σ_{i>r} s_i²``, (min(n, m) + 1,) float64."""
        squares = np.square(self.values)
        return np.append(np.cumsum(squares[::-1])[::-1], 0.0)

    def truncated(self, rank: int) -> tuple[Array, Array]:
        """Return (n, r) and (r, m) float64 whose product is the closest matrix of this rank (Eckart–Young).

        Both factors share the singular values, √s each, so that their entries are of one size. A rank beyond
        min(n, m) is taken as that.
        """
        wide = self.matrix.shape[0] <= self.matrix.shape[1]
        chosen = self.basis[:, :rank]
        # The projection on the basis itself: its error is second order in that of the basis.
        other = chosen.T @ (self.matrix if wide else self.matrix.T)
        root = np.sqrt(np.linalg.norm(other, axis=1))
        near, far = chosen * root, other / np.where(root > 0, root, 1.0)[:, None]
        return (near, far) if wide else (far.T.copy(), near.T.copy())


def decompose(matrix: Array) -> Decomposition:
    """Return the singular value decomposition of an (n, m) matrix, in float64.

    Where the shorter side is long, the eigenvectors of its Gram matrix are used, which is several times
    faster. Squares of singular values are then exact to about 1e-16 of the largest, far below what float32
    weights know.

    >>> decompose(np.diag([3.0, 1.0])).left_over()
    array([10.,  1.,  0.])
    """
    wide = np.asarray(matrix, np.float64)
    short_first = wide if wide.shape[0] <= wide.shape[1] else wide.T
    if short_first.size == 0:
        count = short_first.shape[0]
        return Decomposition(wide, np.zeros(count), np.eye(count))
    if short_first.shape[0] <= SMALL:
        basis, values, _ = np.linalg.svd(short_first, full_matrices=False)
    else:
        squares, basis = np.linalg.eigh(short_first @ short_first.T)
        values, basis = np.sqrt(np.maximum(squares[::-1], 0.0)), basis[:, ::-1]
    return Decomposition(wide, values, np.ascontiguousarray(_signed(basis)))


def _signed(basis: Array) -> Array:
    """Return the vectors with the sign that makes their largest entry positive."""
    largest = np.take_along_axis(basis, np.argmax(np.abs(basis), axis=0)[None], axis=0)
    return np.asarray(basis * np.where(largest < 0, -1.0, 1.0))
