"""Random signs: how much the outputs change with something, from the gradient of one scalar.

For a change δ of anything inside a network the outputs y change by J δ to first order. Of the scalar rᵀ y,
with random signs r, the gradient along δ is rᵀ J δ, and its mean square over r is ‖J δ‖² (Hutchinson 1989).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch


def signed_sum(
    outputs: Mapping[str, torch.Tensor], divisors: Mapping[str, float], rng: np.random.Generator
) -> torch.Tensor:
    """Return rᵀ y over all elements of the outputs, each divided by the root of its divisor; a scalar.

    Args:
        outputs: by name, of any shapes.
        divisors: of the square of each output that counts, by name: its variance, or so.
        rng: draws the signs.
    """
    terms = []
    for name in divisors:
        values = outputs[name]
        signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=tuple(values.shape)))
        signs = signs.to(values.device, values.dtype) / divisors[name] ** 0.5
        terms.append((values * signs).sum())
    return torch.stack(terms).sum()
