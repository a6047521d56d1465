"""Recovery: training on without the channels that were given up.

It goes one of several ways (:mod:`onnxcompress.engine.bottleneck.ways`): a short run from the start of each,
at two learning rates, decides. The learning rate then rises in a few steps and falls along half a cosine;
where it does damage nevertheless, the best state is taken up again with a lower one. What is kept is the
mean of the weights over the last steps: of the start and all rounds the best by the validation split, but
the last where a share of right decisions sets them apart by no more than chance. It has learnt longest, and
the best of many equal ones is only the luckiest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.engine.bottleneck import keeping
from onnxcompress.engine.bottleneck.averaging import Average
from onnxcompress.engine.bottleneck.gates import Gates
from onnxcompress.engine.bottleneck.keeping import Part, State
from onnxcompress.engine.bottleneck.pressure import Along
from onnxcompress.engine.bottleneck.statistics import Statistics
from onnxcompress.engine.bottleneck.ways import Way
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.lengths import passes_of_a_round
from onnxcompress.engine.training.rates import largest_good, tried
from onnxcompress.engine.training.retreat import SLOWER, damaged
from onnxcompress.engine.training.scoring import better, within_chance
from onnxcompress.engine.training.trainer import Evaluation, Trainer

PROBE_STEPS = 150
"""Steps after which ways to go on are compared."""

RATES = (1.0, 3.0)
"""Learning rates tried, as multiples of the one asked for."""

LAST_LR = 0.01
"""Learning rate at the end, as share of the highest."""

RISING = 0.05
"""Part of the steps in which the learning rate rises."""

HORIZON = 0.05
"""Part of the steps over which weights are averaged."""

_Held = tuple[Way, dict[str, Array], dict[str, Any]]


@dataclass(frozen=True)
class Start:
    """What training on starts with: the way, the highest learning rate, and how good the state is.

    ``found`` is None where an interrupted run is taken up: its best state was saved.
    """

    way: Way
    lr: float
    found: Evaluation | None = None


@dataclass(frozen=True)
class Recovery:
    """Everything that training on needs.

    Attributes:
        trainer: holds the graph, μ in the weights.
        gates: closed where channels were given up.
        statistics: of normalisations.
        parameters: weights that change.
        lr: learning rate asked for.
        weight_decay: factor of the ℓ2 penalty.
        augmentation: changes examples while training.
        note: told, after each epoch, the number of passes made and words; returns the evaluation.
        progress: told (passes made, words).
    """

    trainer: Trainer
    gates: Gates
    statistics: Statistics
    parameters: Sequence[str]
    lr: float
    weight_decay: float
    augmentation: Augmentation | None
    note: Callable[[float, str], Evaluation]
    progress: Callable[[float, str], None]

    def start(self, ways: Sequence[Way], epochs: float, *, shortened: bool = False) -> Start:
        """Take the best of the ways; return it with the learning rate that goes with it.

        Args:
            ways: to compare.
            epochs: passes that are to follow.
            shortened: whether these are all that there is time for.
        """
        states = [self._begun(way) for way in ways]
        part, idle = min(1.0, PROBE_STEPS / self.trainer.steps_per_epoch, epochs), self.trainer.idle_loss()
        if shortened:  # what is learnt in trials is thrown away: they must not take the time of the training
            part = min(part, epochs / (len(ways) * len(RATES)))
        rates = [self.lr * factor for factor in RATES]
        found: list[tuple[float, _Held, dict[float, float]]] = []
        for state in states:
            if found and self.trainer.out_of_time:
                break
            self._put(state)
            before = self.trainer.evaluate().loss
            losses = tried(rates, before, idle, partial(self._after, state, part))
            least = min(losses.values())
            found.append((least + state[0].handicap * abs(least), state, losses))
        _, state, losses = min(found, key=lambda one: one[0])
        way, lr = state[0], largest_good(losses, idle)
        self._put(state)
        return Start(way, lr, self.note(0.0, f"goes on from {way.words} with learning rate {lr:g}"))

    def _begun(self, way: Way) -> _Held:
        """Return the state in which a way begins."""
        if way.weights is not None:
            self.gates.keep(way.decision.keep)
            self.trainer.graph.set_arrays(way.weights)
            self.statistics.adapt()
            self.statistics.estimate()
        return way, self.trainer.graph.arrays(), self.statistics.held()

    def _after(self, state: _Held, part: float, lr: float) -> float:
        """Return the loss after a short run from a state."""
        self._put(state)
        self._one(part, lr, Along(self.statistics.parameters(), lr), 0.0)
        self.statistics.estimate()
        return self.trainer.evaluate().loss

    def run(
        self,
        epochs: float,
        start: Start,
        higher_is_better: bool | None,
        take_up: Callable[[Part], None],
        save: Callable[[State], None] | None,
    ) -> str:
        """Train on and leave the graph in the best state (see the top of this file); return why it stopped.

        A state is the running mean of the weights, which is what is evaluated after every round.

        Args:
            epochs: passes over the training split.
            start: where it starts.
            higher_is_better: direction of the metric; None: judged by the loss.
            take_up: gives the state of an interrupted run back, where there is one.
            save: told the state now and then, for a checkpoint; None: there is none.
        """
        along = _Averaging(self, epochs, start, higher_is_better)
        take_up(along)
        outcome = self.trainer.run(
            epochs,
            lr=start.lr,
            optimizer="adam",
            schedule=along.rate,
            weight_decay=self.weight_decay,
            penalty=along,
            parameters=self.parameters,
            augmentation=self.augmentation,
            progress=lambda f, text: self.progress(f * epochs, text),
            save=None if save is None else lambda: save(along.state()),
            save_every_s=keeping.SAVE_EVERY_S,
        )
        along.finish()
        return outcome.stopped

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

    def averaged(self) -> list[torch.Tensor]:
        """Return what is averaged: weights that change, running statistics, lent normalisation."""
        weights = [self.trainer.graph.weight(name).data for name in self.parameters]
        return [t for t in (*weights, *self.statistics.tensors()) if t.is_floating_point()]

    def _put(self, state: _Held) -> None:
        way, arrays, held = state
        self.gates.keep(way.decision.keep)
        self.trainer.graph.set_arrays(arrays)
        self.statistics.put(held)


def planned(part: float) -> float:
    """Return the learning rate after a part of the training, 0 to 1, as share of the highest."""
    return min(1.0, (part + 1e-3) / RISING) * max(LAST_LR, (1 + math.cos(math.pi * part)) / 2)


class _Averaging:
    """A penalty that adds nothing: trains what is lent along, averages all, and looks after every round."""

    def __init__(self, job: Recovery, epochs: float, start: Start, higher_is_better: bool | None) -> None:
        self._job, self._lr, self._higher = job, start.lr, higher_is_better
        self._along = Along(job.statistics.parameters(), start.lr)
        self._per_epoch = job.trainer.steps_per_epoch
        self._per_look = self._per_epoch * passes_of_a_round(epochs, self._per_epoch)
        self._total = max(1, round(epochs * self._per_epoch))
        self._steps, self._looked = 0, 0
        self._average = Average(job.averaged(), HORIZON * self._total)
        self._best: tuple[Evaluation, list[torch.Tensor]] | None = None
        if start.found is not None:  # training may make things worse
            self._best = start.found, [t.clone() for t in self._average.held]
        self._last: Evaluation | None = None
        self._factor = 1.0

    def rate(self, part: float) -> float:
        """Return the learning rate after a part of the training, 0 to 1, as share of the highest."""
        return planned(part) * self._factor

    def value(self) -> torch.Tensor:
        """Return 0."""
        return torch.zeros(())

    def add_gradient(self) -> None:
        """Make the step of what is trained along."""
        self._along.set_rate(self._lr * self.rate(self._steps / self._total))
        self._along.add_gradient()
        self._average.add()
        self._steps += 1
        if self._steps % self._per_look == 0 and self._steps < self._total:
            self._look()

    def state(self) -> State:
        """Return the state for a checkpoint."""
        arrays = {f"along/{n}": a for n, a in self._along.state()[0].items()}
        means, of_means = self._average.state()
        arrays |= {f"mean/{n}": a for n, a in means.items()}
        values: dict[str, Any] = {
            "steps": self._steps, "looked": self._looked, "means": of_means, "factor": self._factor,
        }  # fmt: skip
        if self._best is not None:
            found = self._best[0]
            values["best"] = [found.loss, found.metric, found.examples]
            arrays |= {f"best/{k}": t.cpu().numpy() for k, t in enumerate(self._best[1])}
        return arrays, values

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        parts: dict[str, dict[str, Array]] = {"along": {}, "mean": {}, "best": {}}
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = array
        self._along.restore(parts["along"], {})
        self._average.restore(parts["mean"], values["means"])
        self._steps, self._looked = int(values["steps"]), int(values["looked"])
        self._factor = float(values["factor"])
        if "best" in values:
            like = self._average.held
            held = [torch.from_numpy(np.array(parts["best"][str(k)])).to(t) for k, t in enumerate(like)]
            self._best = Evaluation(*values["best"]), held

    def finish(self) -> None:
        """Look at the last state and leave the best one, or the last where they are equal but for chance."""
        if self._steps > self._looked or self._last is None:
            self._look()
        assert self._best is not None
        assert self._last is not None
        best = self._best[0]
        due = within_chance(self._last, best, best.examples, self._higher)
        due = due and not damaged(self._last, best, self._higher, self._idle)
        self._average.put(self._average.held if due else self._best[1])

    @cached_property
    def _idle(self) -> float:
        return self._job.trainer.idle_loss()

    def _look(self) -> None:
        with self._average.shown():
            found = self._job.note(self._steps / self._per_epoch, "training on")
        self._looked, self._last = self._steps, found
        if self._best is not None and damaged(found, self._best[0], self._higher, self._idle):
            self._factor *= SLOWER
            self._average.start(self._best[1])
        elif self._best is None or better(found, self._best[0], self._higher):
            self._best = found, [t.clone() for t in self._average.held]
