"""Averaging: the mean of the weights over the last steps, which is steadier than any of them.

Polyak, Juditsky (1992), Acceleration of stochastic approximation by averaging. The mean forgets: a state that
lies ``horizon`` steps back weighs e times less than the present one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.keeping import State


class Average:
    """A running mean of tensors that change in place.

    Args:
        tensors: floating-point tensors.
        horizon: steps, at least 1.

    Attributes:
        held: the means.
        steps: how many states went in.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], horizon: float) -> None:
        self._tensors = [t.data for t in tensors]
        self.held = [t.clone() for t in self._tensors]
        self._horizon, self.steps = max(horizon, 1.0), 0

    @torch.no_grad()
    def add(self) -> None:
        """Take in the present state; the first ones are soon forgotten."""
        self.steps += 1
        share = max(1 / self._horizon, 9 / (self.steps + 9))
        torch._foreach_lerp_(self.held, self._tensors, share)

    @torch.no_grad()
    def start(self, values: Sequence[torch.Tensor]) -> None:
        """Set the tensors, and begin anew from there."""
        self.put(values)
        for mean, value in zip(self.held, values, strict=True):
            mean.copy_(value)
        self.steps = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the tensors hold the means for a while."""
        present = [t.clone() for t in self._tensors]
        self.put(self.held)
        try:
            yield
        finally:
            self.put(present)

    @torch.no_grad()
    def put(self, values: Sequence[torch.Tensor]) -> None:
        """Set the tensors."""
        for tensor, value in zip(self._tensors, values, strict=True):
            tensor.copy_(value)

    def state(self) -> State:
        """Return the state for a checkpoint."""
        return {str(k): t.cpu().numpy().copy() for k, t in enumerate(self.held)}, {"steps": self.steps}

    @torch.no_grad()
    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        for k, tensor in enumerate(self.held):
            tensor.copy_(torch.from_numpy(np.array(arrays[str(k)])))
        self.steps = int(values["steps"])
