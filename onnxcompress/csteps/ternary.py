"""Ternary codebook {−a, 0, +a}: the closed form (methods.md section 2)."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array


def ternary_scales(rows: Array) -> Array:
    """Return for each row of (R, n) numbers the a that minimises ``Σ min(w², (|w| − a)²)``, float64.

    With |w| sorted descending and j* = argmax (Σ_{i≤j} |wᵢ|) / √j, a is the mean of the j* largest.

    >>> ternary_scales(np.array([[4.0, 0.1, -4.0, 0.0]]))
    array([4.])
    """
    largest_first = np.sort(np.abs(rows), axis=1)[:, ::-1]
    sums = np.cumsum(largest_first, axis=1, dtype=np.float64)
    count = np.arange(1, rows.shape[1] + 1)
    best = np.argmax(np.square(sums) / count, axis=1)
    return np.asarray(np.take_along_axis(sums, best[:, None], axis=1)[:, 0] / (best + 1))
