"""What an encoding file provides: encodings by kind, and projections that produce them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.registry import Registry

ENCODINGS: Registry[str, type[Encoding]] = Registry("onnxcompress.encodings", "encoding")


class Projection(ABC):
    """Π of one compression (the C step): the closest compressed weights, for given weights.

    Subclasses are frozen dataclasses whose fields are the compression's settings, registered in
    :data:`PROJECTIONS` under the word that recipes call the compression by.

    Attributes:
        joint: whether several weights can be compressed together (one codebook, one number of weights kept).
    """

    joint: ClassVar[bool] = True

    @property
    def penalised(self) -> bool:
        """Whether it trades distance against :meth:`cost` by μ (a penalty form), and not within a limit."""
        return False

    def cost(self, encodings: Sequence[Encoding]) -> float:
        """Return α·C(Θ), which a penalty form adds to the loss; 0 for constraint forms."""
        return 0.0

    def of(self, positions: Sequence[int]) -> Projection:
        """Return the same compression for some of the weights it was made for, by their positions."""
        return self

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
            mu: the penalty parameter μ; None for direct compression, where nothing weighs against distance:
                penalty forms give the weights themselves then. Constraint forms ignore it.
            previous: result of the previous C step, for a warm start.
        """


PROJECTIONS: Registry[str, type[Projection]] = Registry("onnxcompress.encodings", "compression")
