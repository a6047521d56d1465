"""Statistics of normalisations around training with gates: the graph's own, and those lent to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onnxcompress.core.task import Task
from onnxcompress.engine.bottleneck.normalisation import Normalisation
from onnxcompress.engine.training.trainer import Trainer

BATCHES = 60
"""Batches of examples that are looked at to estimate statistics."""


@dataclass(frozen=True)
class Statistics:
    """The normalisations of a graph that is trained.

    Attributes:
        trainer: holds the graph.
        task: the data, and the seed.
        lent: normalisation lent for the time of training; None: none.
        own: the graph has BatchNormalization of its own, whose running statistics move.
    """

    trainer: Trainer
    task: Task
    lent: Normalisation | None
    own: bool

    @contextmanager
    def lending(self) -> Iterator[None]:
        """Put the lent normalisation into the graph for a while, as identity to begin with."""
        if self.lent is None:
            yield
            return
        with self.lent.on(self.trainer.graph.hooks):
            self.adapt()
            yield

    def adapt(self) -> None:
        """Make the lent normalisation the identity, again where weights were replaced."""
        if self.lent is not None:
            self.lent.pause(self._look)

    def estimate(self) -> None:
        """Estimate all statistics anew."""
        if self.lent is not None:
            with self.lent.estimating():
                self._look()
        if self.own:
            self.trainer.estimate_statistics(BATCHES)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return what is trained along."""
        return [] if self.lent is None else list(self.lent.parameters())

    def tensors(self) -> list[torch.Tensor]:
        """Return all that moves: running statistics, and what is lent."""
        moving = sorted(self.trainer.graph.statistics) if self.own else ()
        lent = [] if self.lent is None else list(self.lent.state_dict().values())
        return [*(self.trainer.graph.weight(name).data for name in moving), *lent]

    def held(self) -> dict[str, Any]:
        """Return the state of what is lent."""
        return {} if self.lent is None else copy.deepcopy(self.lent.state_dict())

    def put(self, held: Mapping[str, Any]) -> None:
        """Take such a state up."""
        if self.lent is not None:
            self.lent.load_state_dict(held)

    def _look(self) -> None:
        order = np.random.default_rng([self.task.seed, 0xB5]).permutation(self.task.train)
        self.trainer.evaluate(order[: BATCHES * self.trainer.batch_size])
