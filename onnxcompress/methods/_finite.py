"""Weights that are no numbers are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from onnxcompress.core.errors import UnsupportedError

if TYPE_CHECKING:
    from onnxcompress.core.encoding import Array


def check_finite(arrays: Mapping[str, Array], why: str) -> None:
    """Raise UnsupportedError for a weight with NaN or infinite values; ``why``: what cannot be done to it."""
    import numpy as np  # noqa: PLC0415

    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float64, copy=False)).all():
            kind = "NaN" if np.isnan(array.astype(np.float64)).any() else "infinite values"
            raise UnsupportedError(
                f"weight '{name}' holds {kind}",
                why=why,
                fix=f"repair the model, or leave it alone with --exclude '{name}'",
            )
