"""Binary codebook {−a, +a}: the closed form a = mean |w| (methods.md section 2)."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array


def binary_scales(rows: Array) -> Array:
    """Return for each row of (R, n) numbers the a that minimises ``Σ (w − a sign w)²``, float64.

    >>> binary_scales(np.array([[1.0, -3.0]]))
    array([2.])
    """
    return np.asarray(np.abs(rows).mean(axis=1, dtype=np.float64))
