"""Recovery: training on without the channels that were given up.

It goes on from the weights trained with gates, or from the original ones: noise has made the former used to
the loss of channels, the latter still know what few examples cannot teach again. A short run from each, at
two learning rates, decides. The learning rate then falls along half a cosine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck.normalisation import Normalisation
from onnxcompress.engine.bottleneck.pressure import Along
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.trainer import Evaluation, Trainer

PROBE_STEPS = 150
"""Steps after which ways to go on are compared."""

RATES = (1.0, 3.0)
"""Learning rates tried, as multiples of the one asked for."""

LAST_LR = 0.01
"""Learning rate of the last epoch at least, as share of the first one's."""

State = tuple[dict[str, Array], dict[str, Any]]


@dataclass(frozen=True)
class Recovery:
    """Everything that training on needs.

    Attributes:
        trainer: holds the graph, gates closed, μ in the weights.
        norms: lent normalisation.
        parameters: weights that change.
        lr: learning rate asked for.
        weight_decay: factor of the ℓ2 penalty.
        augmentation: changes examples while training.
        estimate: estimates all statistics anew.
        adapt: makes the lent normalisation the identity again, after weights were replaced.
        note: told, after each epoch, the number of passes made and words; returns the evaluation.
        progress: told (passes made, words).
    """

    trainer: Trainer
    norms: Normalisation | None
    parameters: Sequence[str]
    lr: float
    weight_decay: float
    augmentation: Augmentation | None
    estimate: Callable[[], None]
    adapt: Callable[[], None]
    note: Callable[[float, str], Evaluation]
    progress: Callable[[float, str], None]

    def start(self, original: Mapping[str, Array], epochs: float) -> float:
        """Take the better start and return the learning rate that goes with it."""
        starts = [("the weights trained with gates", self._state())]
        self.trainer.graph.set_arrays(original)
        self.adapt()
        self.estimate()
        starts.append(("the original weights", self._state()))
        part = min(1.0, PROBE_STEPS / self.trainer.steps_per_epoch, epochs)
        found = []
        for words, state in starts:
            for factor in RATES:
                self._restore(state)
                self._one(part, self.lr * factor, Along(self._others(), self.lr * factor), 0.0)
                self.estimate()
                loss = self.trainer.evaluate().loss
                found.append((loss if math.isfinite(loss) else math.inf, words, factor, state))
        _, words, factor, state = min(found, key=lambda way: way[0])
        self._restore(state)
        self.note(0.0, f"goes on from {words} with learning rate {self.lr * factor:g}")
        return self.lr * factor

    def run(self, epochs: float, lr: float, better: Callable[[Evaluation, Evaluation], bool]) -> str:
        """Train on and leave the graph in the best state; return why it stopped."""
        along, count, stopped = Along(self._others(), lr), math.ceil(epochs), "done"
        best: tuple[Evaluation, State] | None = None
        for k in range(count):
            rate = lr * max(LAST_LR, (1 + math.cos(math.pi * k / count)) / 2)
            along.set_rate(rate)
            part = min(1.0, epochs - k)
            stopped = self._one(part, rate, along, float(k))
            found = self.note(k + part, "training on")
            if best is None or better(found, best[0]):
                best = found, self._state()
            if stopped != "done":
                break
        if best is not None:
            self._restore(best[1])
        return stopped

    def _one(self, part: float, lr: float, along: Along, before: float) -> str:
        outcome = self.trainer.run(
            part,
            lr=lr,
            optimizer="adam",
            weight_decay=self.weight_decay,
            penalty=along,
            parameters=self.parameters,
            augmentation=self.augmentation,
            progress=lambda f, text: self.progress(before + f * part, text),
        )
        return outcome.stopped

    def _others(self) -> list[Any]:
        return [] if self.norms is None else list(self.norms.parameters())

    def _state(self) -> State:
        norms = {} if self.norms is None else copy.deepcopy(self.norms.state_dict())
        return self.trainer.graph.arrays(), norms

    def _restore(self, state: State) -> None:
        self.trainer.graph.set_arrays(state[0])
        if self.norms is not None:
            self.norms.load_state_dict(state[1])
