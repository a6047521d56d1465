"""Powers of two {0, ±1, ±2⁻¹, …, ±2⁻ᶜ}: the closed form of the nearest one (methods.md section 2)."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array


def nearest_power(weights: Array, smallest: int) -> Array:
    """Return the nearest of {0, ±1, …, ±2⁻ᶜ}, C = ``smallest`` ≥ 0, float64; the smaller one on a tie.

    With f = −log₂|t|: 0 for f > C + 1, 1 for f ≤ 0, 2⁻ᶜ for C < f ≤ C + 1, else 2^−⌊f + log₂ 3/2⌋.

    >>> nearest_power(np.array([0.3, -0.8, 0.01, 7.0]), 2)
    array([ 0.25, -1.  ,  0.  ,  1.  ])
    """
    size = np.abs(np.asarray(weights, dtype=np.float64))
    with np.errstate(divide="ignore"):
        f = -np.log2(size)
    exponent = np.clip(np.floor(f + np.log2(1.5)), 0, smallest)
    power = np.where(size <= 2.0 ** -(smallest + 1), 0.0, 2.0**-exponent)
    return np.sign(weights) * power
