"""ℓ0 and ℓ1 as penalties and ℓ1 as constraint: thresholds on |w| (methods.md section 2, "C steps").

The penalty forms are ``argmin_θ α·C(θ) + μ/2 ‖w − θ‖²``; C is a sum over weights, so each is decided by
itself, and several arrays need nothing but the same threshold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.csteps.pruning import magnitudes

_INSIDE = 1e-6
"""A sum of magnitudes this little over the radius, relatively, is rounding: the point is in the ball."""


def hard_level(alpha: float, mu: float) -> float:
    """Return √(2α/μ): with C = ‖θ‖₀ a weight stays as it is where |w| is larger, and is 0 elsewhere."""
    return math.sqrt(2 * alpha / mu)


def soft_level(alpha: float, mu: float) -> float:
    """Return α/μ: with C = ‖θ‖₁ every |w| shrinks by it, to 0 at least."""
    return alpha / mu


def ball_level(weights: Sequence[Array], radius: float) -> float:
    """Return by how much every |w| shrinks in the Euclidean projection on ``Σ|θ| ≤ radius`` over all arrays.

    0 where they lie in the ball already. Exact, by sorting: Duchi, Shalev-Shwartz, Singer, Chandra (2008),
    Efficient projections onto the ℓ1-ball, figure 1.

    >>> ball_level([np.array([3.0, -1.0]), np.array([0.5])], 2.0)
    1.0
    """
    sizes = np.concatenate([magnitudes(w) for w in weights])
    if float(sizes.sum(dtype=np.float64)) <= radius * (1 + _INSIDE):
        return 0.0
    sizes = -np.sort(-sizes)
    excess = np.cumsum(sizes, dtype=np.float64) - radius
    levels = excess / np.arange(1, len(sizes) + 1)
    over = np.flatnonzero(sizes > levels)  # the first ones, the largest always but for rounding
    return float(levels[over[-1] if len(over) else 0])


def shrunk(weight: Array, level: float) -> Array:
    """Return ``sign(w) · max(|w| − level, 0)`` in the weight's type.

    >>> shrunk(np.array([3.0, -1.0, 0.5]), 1.0)
    array([ 2., -0.,  0.])
    """
    wide = weight.astype(np.float64)
    return (np.sign(wide) * np.maximum(np.abs(wide) - level, 0)).astype(weight.dtype)
