"""What an encoding file provides: encodings by kind, and projections that produce them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.registry import Registry

ENCODINGS: Registry[str, type[Encoding]] = Registry("onnxcompress.encodings", "encoding")


class Projection(ABC):
    """Π of one compression (the C step): the closest compressed weights, for given weights.

    Subclasses are frozen dataclasses whose fields are the compression's settings.
    """

    @abstractmethod
    def project(
        self,
        weights: Sequence[Array],
        *,
        mu: float | None = None,
        previous: Sequence[Encoding] | None = None,
    ) -> list[Encoding]:
        """Return ``argmin_Θ Σ ‖w − Δ(Θ)‖²`` (plus the penalty, divided by μ/2, for penalty forms).

        Args:
            weights: one array, or several that are compressed jointly (one codebook for all).
            mu: the penalty parameter μ; None for direct compression. Constraint forms ignore it.
            previous: result of the previous C step, for a warm start.
        """
