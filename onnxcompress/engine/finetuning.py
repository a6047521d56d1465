"""Fine-tuning: the weights that are there trained on, towards labels or the original model's outputs.

Weights that are stored encoded keep their form: their numbers are trained (codebook entries, scales, what a
sparse weight has besides zeros).

BatchNormalization statistics are estimated anew first, because a cut changes what they are of; they are
kept where the validation loss gets less. Training then uses the statistics of each batch and moves the
stored ones along. The state with the best validation result, the one at the start included, is returned;
where an epoch does damage, training goes back to it and on with a lower learning rate.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import Model
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import Training, TrainingPoint
from onnxcompress.core.task import Task
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.checkpoint import Checkpoint
from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.lengths import cheap_steps, passes, passes_of_a_round
from onnxcompress.engine.training.numbers import TrainedNumbers
from onnxcompress.engine.training.rates import largest_good, tried
from onnxcompress.engine.training.retreat import SLOWER, damaged
from onnxcompress.engine.training.scoring import better, in_words, made_in_time, point
from onnxcompress.engine.training.shifts import fitting_shifts
from onnxcompress.engine.training.summary import summary
from onnxcompress.engine.training.trainer import Trainer

EPOCHS = 5.0
"""Passes over the training split, where nothing else is asked for; more over few examples."""

LAST_LR = 0.05
"""The learning rate at the end, as a share of the first."""

BATCH_SIZE = 64
"""Examples of one step: a few epochs of small batches make more steps than of large ones."""

_RATES = (1e-3, 3e-3, 1e-2)
_PROBE_STEPS = 100
_PROBED = 2000
"""Validation examples that a learning rate is judged by."""
_STATISTICS_BATCHES = 60


@dataclass(frozen=True)
class Job:
    """What is trained, and with what.

    Attributes:
        model: as it is now.
        weights: those that change, encoded ones left out.
        encodings: weight name -> encoding, of weights whose numbers change (see ``Encoding.numbers``).
        task: the data.
        resources: device, time limit, checkpoint folder, progress, the teacher.
        epochs: passes over the training split; None: :data:`EPOCHS`, more over few examples.
        lr: learning rate of Adam in the first epoch; None: found in short runs.
        batch_size: None: 64, fewer where there are few examples.
        statistics: estimate BatchNormalization statistics anew, and let them move.
        shift: show pictures shifted as far as the original hardly notices.
        fingerprint: what a resumed run must have in common with the interrupted one.
    """

    model: Model
    weights: Sequence[str]
    encodings: Mapping[str, Encoding]
    task: Task
    resources: Resources
    epochs: float | None = None
    lr: float | None = None
    batch_size: int | None = None
    statistics: bool = True
    shift: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Finetuned:
    """What came of it.

    Attributes:
        arrays: dense weights that changed.
        encodings: encoded weights that changed.
        training: the path, for the report.
        warnings: sentences the user must see.
    """

    arrays: Mapping[str, Array]
    encodings: Mapping[str, Encoding]
    training: Training
    warnings: tuple[str, ...]


def finetune(job: Job) -> Finetuned:
    """Train; raises as :class:`~onnxcompress.engine.training.trainer.Trainer` does."""
    return _Run(job).run()


@dataclass(frozen=True)
class _State:
    """All that training changes: dense weights and statistics, and the numbers of encoded weights."""

    arrays: Mapping[str, Array]
    numbers: Mapping[str, Array]


@dataclass(frozen=True)
class _Best:
    score: Evaluation
    state: _State
    epoch: int


class _Run:
    def __init__(self, job: Job) -> None:
        self.job, self.began = job, time.monotonic()
        job.resources.progress(0.0, "preparing the network and the data", None)
        self.graph = TorchGraph(job.model, device=job.resources.device)
        given = job.resources.teacher
        teacher = None if given is None or given is job.model else TorchGraph(given)
        moving = job.statistics and any(n.op_type == "BatchNormalization" for n in job.model.ir.graph)
        self.trainer = Trainer(
            self.graph,
            job.task,
            job.resources,
            batch_size=job.batch_size,
            usual=BATCH_SIZE,
            bn="train" if moving else "eval",
            teacher=teacher,
            classes=True,
        )
        shifts = fitting_shifts(self.graph if teacher is None else teacher, job.task) if job.shift else {}
        self.augmentation = Augmentation(shifts)
        self.higher_is_better = self.trainer.higher_is_better if job.task.labelled else None
        self.moving = self.trainer.moving
        stuck = {r.where for r in self.graph.without_gradient()}
        reached = set(self.graph.trainable) - stuck
        self.weights = [n for n in self.graph.trainable if n in reached & set(job.weights)]
        wanted = {*job.weights, *job.encodings}
        self.stuck = tuple(r for r in self.graph.without_gradient() if r.where in wanted)
        self.numbers = TrainedNumbers(self.graph, {n: e for n, e in job.encodings.items() if n in reached})
        self.start = self._state()
        self.parameters: list[str | nn.Parameter] = [*self.weights, *self.numbers.parameters()]
        folder = job.resources.checkpoint_dir
        self.checkpoint = None if folder is None else Checkpoint(folder / "finetune", job.fingerprint)
        self.points: list[TrainingPoint] = []
        self.epochs = job.epochs or self._usual()
        self.epoch, self.made, self.lr, self.given_s = 0, 0.0, job.lr or 0.0, math.inf
        self.best: _Best | None = None
        self.hoped = math.inf

    def run(self) -> Finetuned:
        if not self._resumed():
            self._note(None)
            if self.moving:
                self._estimate()
            if self.job.lr is None and self.parameters:
                self.lr = self._probed()
        self.given_s = self.trainer.seconds_left
        epochs, stopped = math.ceil(self.epochs) if self.parameters else 0, "done"
        while self.epoch < epochs and stopped == "done":
            stopped = self._one(min(float(self.round), self.epochs - self.epoch), epochs)
        assert self.best is not None
        told = f"{stopped}; the state after epoch {self.best.epoch} of {self.epoch} is kept"
        if stopped == "time":
            self.trainer.warnings.append(made_in_time(self.made, self.epochs))
        arrays, encodings = self._changed(self.best.state)
        return Finetuned(arrays, encodings, self._facts(told), tuple(self.trainer.warnings))

    def _changed(self, state: _State) -> tuple[dict[str, Array], dict[str, Encoding]]:
        """Return the dense and the encoded weights of a state that are not what they were at the start."""
        changed = {key for key, array in state.numbers.items() if not _same(array, self.start.numbers[key])}
        self._put(state)
        encodings = self.numbers.encodings(changed)
        arrays = {
            name: array
            for name, array in state.arrays.items()
            if name not in self.job.encodings and not _same(array, self.job.model.array(name))
        }
        return arrays, encodings

    def _usual(self) -> float:
        """Return the passes that are made where nobody asked for a number."""
        cheap = cheap_steps(
            self.job.model, self.job.task, self.job.resources.input_shapes, self.trainer.batch_size
        )
        return passes(EPOCHS, cheap, self.trainer.steps_per_epoch)

    @property
    def round(self) -> int:
        """Passes of a round; Adam starts anew with each and needs some steps to know the gradients' sizes."""
        return passes_of_a_round(self.epochs, self.trainer.steps_per_epoch)

    def _one(self, part: float, epochs: int) -> str:
        """Train for one round; return why training stops, "done" where it goes on."""
        done = min(self.epoch / max(epochs - self.round, 1), 1.0)
        outcome = self.trainer.run(
            part,
            lr=self.lr * LAST_LR**done,
            optimizer="adam",
            schedule=lambda fraction: (
                LAST_LR ** self._hurry(done, (self.epoch + part * (1 + fraction) / 2) / epochs)
            ),
            parameters=self.parameters,
            augmentation=self.augmentation,
            progress=lambda f, text: self.job.resources.progress(
                (self.epoch + f * part) / epochs, text, None
            ),
            save=self._save if self.checkpoint is not None else None,
        )
        # Where time is over within a round, a resumed run makes the passes that are left of it.
        self.epoch, self.made = self.epoch + math.ceil(outcome.epochs), self.made + outcome.epochs
        if self._note(outcome.loss):
            assert self.best is not None
            self._put(self.best.state)
            self.lr *= SLOWER
        self._save()
        return outcome.stopped

    def _hurry(self, done: float, due: float) -> float:
        """Return how far the learning rate falls below what the passes say, so that it ends with the time.

        By nothing at all unless time runs out: a limit that is not reached must not change the result, which
        what the clock says would, from run to run.

        Args:
            done: part of its fall that the passes say.
            due: part of the time that may be used by now; half of what is left of a round is leeway.
        """
        used = 0.0 if math.isinf(self.given_s) else 1 - self.trainer.seconds_left / self.given_s
        return max(used - done, 0.0) if used > due else 0.0

    def _note(self, loss: float | None) -> bool:
        """Evaluate the state, remember it where it is the best, and tell; return whether it is damage."""
        found, damage = self.trainer.evaluate(), False
        if self.best is not None:
            damage = damaged(found, self.best.score, self.higher_is_better, self._idle, self.hoped)
        if self.best is None or (not damage and better(found, self.best.score, self.higher_is_better)):
            self.best = _Best(found, self._state(), self.epoch)
        self.points.append(point(self.epoch, found, time.monotonic() - self.began, loss))
        words = f"epoch {self.epoch} of {self.epochs:g}: {in_words(found, self.trainer.metric_name)}"
        self.job.resources.progress(min(self.epoch / self.epochs, 1.0), words, self.points[-1])
        return damage

    @cached_property
    def _idle(self) -> float:
        return self.trainer.idle_loss()

    def _state(self) -> _State:
        return _State(self.graph.arrays(), self.numbers.arrays())

    def _put(self, state: _State) -> None:
        self.graph.set_arrays(state.arrays)
        self.numbers.set_arrays(state.numbers)

    def _estimate(self) -> None:
        """Estimate the statistics of BatchNormalization anew and keep them where that lessens the loss."""
        self.job.resources.progress(0.0, "estimating normalisation statistics", None)
        before = self._state()
        self.trainer.estimate_statistics(_STATISTICS_BATCHES)
        found = self.trainer.evaluate()
        assert self.best is not None
        if found.loss < self.best.score.loss:
            self.best = _Best(found, self._state(), 0)
        else:
            self._put(before)

    def _probed(self) -> float:
        """Return the largest learning rate that does about as well in a few steps as the best."""
        before = self._state()
        # A tenth of the training is not too much to spend on each; one pass costs little in any case.
        part = min(_PROBE_STEPS / self.trainer.steps_per_epoch, max(1.0, self.epochs / 10))
        given_s = self.trainer.seconds_left / 10

        def after(rate: float) -> float:
            self.job.resources.progress(0.0, f"trying learning rate {rate:g}", None)
            self.trainer.run(
                part, lr=rate, optimizer="adam", parameters=self.parameters,
                augmentation=self.augmentation, progress=lambda fraction, text: None,
                until=time.monotonic() + given_s,
            )  # fmt: skip
            found = self.trainer.evaluate(limit=_PROBED).loss
            self._put(before)
            return found

        unchanged = self.trainer.evaluate(limit=_PROBED).loss
        idle = self.trainer.idle_loss(limit=_PROBED)
        losses = tried(_RATES, unchanged, idle, after, lambda: self.trainer.out_of_time)
        self.hoped = min(losses.values())
        return largest_good(losses, idle)

    def _facts(self, stopped: str) -> Training:
        return summary(
            self.trainer,
            self.job.task,
            self.augmentation,
            epochs=self.made,
            stopped=stopped,
            points=self.points,
            without_gradient=self.stuck,
        )

    # checkpoints -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoint is None or self.best is None:
            return
        arrays, values = self.trainer.state()
        held = {f"trainer/{n}": a for n, a in arrays.items()}
        held |= {f"best/{n}": a for n, a in self.best.state.arrays.items()}
        held |= {f"numbers/{n}": a for n, a in self.best.state.numbers.items()}
        score = self.best.score
        self.checkpoint.save(
            held,
            {
                "trainer": values,
                "epoch": self.epoch,
                "made": self.made,
                "epochs": self.epochs,
                "lr": self.lr,
                "hoped": self.hoped,
                "best": [score.loss, score.metric, score.examples, self.best.epoch],
                "points": [vars(point) for point in self.points],
            },
        )

    def _resumed(self) -> bool:
        wanted = self.checkpoint is not None and self.job.resources.resume
        found = self.checkpoint.load() if wanted and self.checkpoint is not None else None
        if found is None:
            return False
        arrays, values = found
        parts: dict[str, dict[str, Array]] = {"trainer": {}, "best": {}, "numbers": {}}
        for key, array in arrays.items():
            part, _, name = key.partition("/")
            parts[part][name] = array
        self.trainer.restore(parts["trainer"], values["trainer"])
        self.epoch, self.made = int(values["epoch"]), float(values["made"])
        self.epochs = float(values["epochs"])  # what is cheap hangs on sizes that may be others now
        self.lr, self.hoped = float(values["lr"]), float(values["hoped"])
        loss, metric, examples, epoch = values["best"]
        state = _State(parts["best"], parts["numbers"])
        self.best = _Best(Evaluation(loss, metric, examples), state, epoch)
        self.points = [TrainingPoint(**point) for point in values["points"]]
        return True


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and bool(np.array_equal(a, b))
