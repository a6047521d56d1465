"""Fixed codebooks: integer grids and powers of two, ascending, before scaling."""

from __future__ import annotations

import numpy as np

from onnxcompress.core.encoding import Array


def integer_grid(entries: int, *, zero: bool = True, symmetric: bool = False) -> Array:
    """Return K equally spaced levels.

    Args:
        entries: K ≥ 2.
        zero: whether 0 is a level. An even K has then one level more below than above 0, as two's
            complement has; without 0 the levels are the odd numbers ±1, ±3 … (K even).
        symmetric: with ``zero``, leave out the lowest level of an even K (K − 1 levels remain).

    >>> integer_grid(4), integer_grid(4, zero=False), integer_grid(4, symmetric=True)
    (array([-2., -1.,  0.,  1.]), array([-3., -1.,  1.,  3.]), array([-1.,  0.,  1.]))
    """
    if not zero:
        even = entries - entries % 2
        return np.arange(1 - even, even, 2, dtype=np.float64)
    low = -(entries // 2)
    grid = np.arange(low, low + entries, dtype=np.float64)
    return grid[1:] if symmetric and entries % 2 == 0 else grid


def powers_of_two(entries: int) -> Array:
    """Return {0, ±1, ±1/2, …, ±2⁻ᶜ} with as many levels as fit into ``entries`` (2 C + 3 of them).

    >>> powers_of_two(8)
    array([-1.  , -0.5 , -0.25,  0.  ,  0.25,  0.5 ,  1.  ])
    """
    smallest = max(0, (entries - 3) // 2)
    positive = 2.0 ** np.arange(-smallest, 1)
    return np.concatenate([-positive[::-1], [0.0], positive])
