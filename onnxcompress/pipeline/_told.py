"""Sentences about a compression as a whole that its user must see."""

from __future__ import annotations

from onnxcompress.core.run import Comparison
from onnxcompress.pipeline._original import Original

TORCH_DIFFERS = 0.1
"""Relative ℓ2 of the original file from which on a user has to know that it differs from the torch model."""


def scores_told(original: Original) -> tuple[str, ...]:
    """Say what is looked at instead of outputs that hold no real numbers."""
    if not original.scores:
        return ()
    names = " and ".join(f"'{name}'" for name in original.scores)
    return (
        f"no output holds real numbers: {names}, which decides what they are, is trained towards and "
        "compared with them; the written file has the outputs of the original alone",
    )


def torch_differs(comparisons: tuple[Comparison, ...]) -> tuple[str, ...]:
    """Say that torch computes something else than the file, where it does so of the original already."""
    floors = [c.tolerance / 4 for c in comparisons if c.reference == "torch" and c.tolerance is not None]
    if max(floors, default=0.0) <= TORCH_DIFFERS:
        return ()
    return (
        f"onnxruntime and torch compute even the original differently, by {100 * max(floors):.2g} % "
        "(relative l2): what was decided and trained with torch says little of what the file computes; "
        "please report this model",
    )
