"""What a run of a graph needs of memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from onnxcompress.engine.graph.values import Value


@dataclass
class Footprint:
    """Bytes of one run, added up step by step.

    Attributes:
        widest: the most that one step reads, weights too, and gives.
        given: what all steps give, about what is kept for a gradient.
    """

    widest: int = 0
    given: int = 0

    def add(self, inputs: Iterable[Value], outputs: Iterable[Value]) -> None:
        """Take in a step."""
        read, given = _bytes(inputs), _bytes(outputs)
        self.widest = max(self.widest, read + given)
        self.given += given


def _bytes(values: Iterable[Value]) -> int:
    return sum(v.numel() * v.element_size() for v in values if isinstance(v, torch.Tensor))
