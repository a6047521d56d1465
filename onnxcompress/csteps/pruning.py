"""ℓ0 constraint: the κ largest weights stay, over one array or over several jointly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxcompress.core.encoding import Array


def largest(weights: Sequence[Array], kept: int) -> list[Array]:
    """Return for each array which of its weights stay, as bool: the ``kept`` largest |w| of all together.

    This is the Euclidean projection on ``‖w‖₀ ≤ κ`` (methods.md section 2). Of equal ones at the border the
    first stay, in the order of the arrays, so that exactly ``kept`` do (all, where there are no more).

    >>> largest([np.array([3.0, -1.0]), np.array([[1.0], [2.0]])], 3)
    [array([ True,  True]), array([[False],
           [ True]])]
    """
    counts = [w.size for w in weights]
    total = sum(counts)
    if kept >= total or kept <= 0:
        return [np.full(w.shape, kept > 0) for w in weights]
    size = np.concatenate([magnitudes(w) for w in weights])
    threshold = np.partition(size, total - kept)[total - kept]
    stay = size > threshold
    equal = np.flatnonzero(size == threshold)
    stay[equal[: kept - int(np.count_nonzero(stay))]] = True
    parts = np.split(stay, np.cumsum(counts)[:-1])
    return [part.reshape(w.shape) for part, w in zip(parts, weights, strict=True)]


def magnitudes(weights: Array) -> Array:
    """Return |w| flattened, float16 and bfloat16 as float32."""
    flat: Array = np.abs(np.ravel(weights))
    return flat.astype(np.float32) if flat.dtype.itemsize < 4 else flat
