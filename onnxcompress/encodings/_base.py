"""What an encoding file provides: encodings by kind, and projections that produce them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.registry import Registry

ENCODINGS: Registry[str, type[Encoding]] = Registry("onnxcompress.encodings", "encoding")

Previous = Sequence[Encoding] | None
"""Result of the C step before, for a warm start; None in the first one."""


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

    def free(self, encoding: Encoding) -> Array | None:
        """Return where the weights may have any value at no further cost, as bool; None: nowhere."""
        return None

    def project_seen(
        self,
        weights: Sequence[Array],
        hidden: Sequence[Array],
        *,
        mu: float | None = None,
        previous: Previous = None,
    ) -> list[Encoding]:
        """Return Θ that fits the weights outside ``hidden`` (bool, of their shapes), whatever the others get.

        Here the hidden ones are taken to be what they were in the previous result, so that they are in no
        one's way: no exact solution, but never a worse one than before.
        """
        if previous is None:
            return self.project(weights, mu=mu)
        before = [p.decode() for p in previous]
        filled = [np.where(h, b, w) for w, h, b in zip(weights, hidden, before, strict=True)]
        return self.project(filled, mu=mu, previous=previous)

    @abstractmethod
    def project(
        self, weights: Sequence[Array], *, mu: float | None = None, previous: Previous = None
    ) -> list[Encoding]:
        """Return ``argmin_Θ Σ ‖w − Δ(Θ)‖²`` (plus the penalty, divided by μ/2, for penalty forms).

        Args:
            weights: one array, or several that are compressed jointly (one codebook for all).
            mu: the penalty parameter μ; None for direct compression, where nothing weighs against distance:
                penalty forms give the weights themselves then. Constraint forms ignore it.
            previous: result of the previous C step, for a warm start.
        """


PROJECTIONS: Registry[str, type[Projection]] = Registry("onnxcompress.encodings", "compression")
