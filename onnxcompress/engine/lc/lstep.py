"""The L step: a network trained by SGD under the pull of Δ(Θ)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.engine.lc.learner import Learned, Pull, Score
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.penalty import QuadraticPenalty
from onnxcompress.engine.training.trainer import Trainer

MOMENTUM = 0.9


class TrainedLearner:
    """A trainer as L step.

    Args:
        trainer: holds the graph with the reference weights.
        compressed: weights that are compressed.
        others: weights that are trained along.
        momentum: of SGD.
        save: called between SGD steps now and then, see :meth:`Trainer.run`.
        progress: told (step, fraction of this L step, words).
        by_loss: judge states by the validation loss, not by the metric.
        augmentation: changes examples while training.
        sufficient: see :class:`~onnxcompress.engine.lc.learner.Learner`.
    """

    def __init__(
        self,
        trainer: Trainer,
        compressed: Sequence[str],
        others: Sequence[str],
        *,
        momentum: float = MOMENTUM,
        save: Callable[[], None] | None = None,
        progress: Callable[[int, float, str], None] = lambda step, fraction, words: None,
        by_loss: bool = False,
        augmentation: Augmentation | None = None,
        sufficient: Score | None = None,
    ) -> None:
        self.sufficient = sufficient
        self.augmentation = augmentation
        self.trainer, self.momentum, self.save, self.progress = trainer, momentum, save, progress
        self.compressed, self._others = tuple(compressed), tuple(others)
        self.higher_is_better = None if by_loss else trainer.higher_is_better

    def weights(self, names: Sequence[str]) -> dict[str, Array]:
        """Return weights as they are now, in their storage types."""
        return self.trainer.graph.arrays(names)

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Set weights."""
        self.trainer.graph.set_arrays(arrays)

    def others(self) -> dict[str, Array]:
        """Return the weights that are trained along."""
        return self.trainer.graph.arrays(self._others)

    def learn(self, step: int, pull: Pull | None, *, epochs: float, lr: float) -> Learned:
        """Train from the present weights."""
        outcome = self.trainer.run(
            epochs,
            lr=lr,
            momentum=self.momentum,
            parameters=(*self.compressed, *self._others),
            penalty=self._penalty(pull),
            augmentation=self.augmentation,
            progress=lambda fraction, words: self.progress(step, fraction, words),
            save=self.save,
        )
        stopped: Literal["done", "time", "diverged"] = "done"
        if outcome.stopped in ("time", "diverged"):
            stopped = "time" if outcome.stopped == "time" else "diverged"
        return Learned(outcome.loss if math.isfinite(outcome.loss) else None, outcome.epochs, stopped)

    def score(self, arrays: Mapping[str, Array]) -> Score:
        """Evaluate on the validation split with these weights in place."""
        found = self.trainer.evaluate("validation", arrays=arrays)
        return Score(found.loss, found.metric, found.examples)

    def _penalty(self, pull: Pull | None) -> QuadraticPenalty | None:
        if pull is None:
            return None
        parameters = [self.trainer.graph.weight(name) for name in pull.targets]
        targets = [
            torch.from_numpy(np.array(target, np.float32, order="C")).to(p.device, p.dtype)
            for target, p in zip(pull.targets.values(), parameters, strict=True)
        ]
        return QuadraticPenalty(parameters, targets, pull.mu)
