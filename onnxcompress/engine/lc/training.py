"""LC on a model: graph, trainer, schedule, checkpoints and progress, for methods that compress weights."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxcompress.core.encoding import Array, Encoding
from onnxcompress.core.model import Model
from onnxcompress.core.resources import Resources
from onnxcompress.core.run import Training, TrainingPoint
from onnxcompress.core.task import Task
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.lc.keeping import put_together, taken_apart
from onnxcompress.engine.lc.learner import Score
from onnxcompress.engine.lc.loop import OUT_OF_TIME, Part, Result, Schedule, State, compress, project
from onnxcompress.engine.lc.lstep import TrainedLearner
from onnxcompress.engine.lc.schedule import Wishes, fit_schedule
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.checkpoint import Checkpoint
from onnxcompress.engine.training.mixing import with_mixtures
from onnxcompress.engine.training.noise import fitting_noise
from onnxcompress.engine.training.scoring import made_in_time
from onnxcompress.engine.training.shifts import fitting_shifts
from onnxcompress.engine.training.summary import summary
from onnxcompress.engine.training.trainer import Trainer

_SAVE_EVERY_S = 20.0
_REMEMBERED = 5e-3
"""Error of the original on the validation split below which it was most likely trained on it."""

_FORGIVEN = 0.02
"""How much more than the original a late state may err there and still be kept: it has not seen them."""

_FITTING_SHARE = 0.1
"""Part of a limited time after which noise and shifts are what is known of them then."""

_GROUPS = ("multipliers", "before", "best")
_ENCODED = ("theta", "best_theta")


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        encodings: weight name -> Θ.
        others: uncompressed weights whose values changed.
        training: for the report.
        schedule: the path that was taken, every automatic value filled in; None where nothing could train.
        warnings: sentences the user must see.
    """

    encodings: Mapping[str, Encoding]
    others: Mapping[str, Array]
    training: Training
    schedule: Schedule | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """What is to be compressed, and with what.

    Attributes:
        model: the reference.
        parts: what is compressed how. Weights that no gradient reaches are projected directly.
        others: weights that may be trained along uncompressed.
        task: the data.
        resources: device, time limit, checkpoint folder, progress; the original model where an earlier method
            changed it: that one teaches.
        wishes: what the user set of the schedule.
        batch_size: None: the trainer's choice.
        mix: add mixtures of examples where there are few and no labels.
        noise: share of the variance of the original's outputs that noise on the inputs may cost.
        shift: show pictures shifted as far as the original hardly notices.
        fingerprint: what a resumed run must have in common with the interrupted one.
    """

    model: Model
    parts: Sequence[Part]
    others: Sequence[str]
    task: Task
    resources: Resources
    wishes: Wishes
    batch_size: int | None = None
    mix: bool = True
    noise: float = 0.0
    shift: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


def train(job: Job) -> Trained:
    """Compress weights while training the network around them."""
    return _Run(job).run()


class _Run:
    def __init__(self, job: Job) -> None:
        self.model, self.task, self.resources, self.wishes = job.model, job.task, job.resources, job.wishes
        self.began = time.monotonic()
        self.resources.progress(0.0, "preparing the network and the data", None)
        graph = TorchGraph(job.model, device=job.resources.device)
        given = job.resources.teacher
        teacher = (
            None if given is None or given is job.model else TorchGraph(given, device=job.resources.device)
        )
        original = graph if teacher is None else teacher
        self.job_limit = limit = job.resources.max_time_s
        until = math.inf if limit is None else self.began + _FITTING_SHARE * limit
        self.trained_on, self.mixtures = job.task, 0
        if job.mix:
            self.trained_on, self.mixtures = with_mixtures(
                job.task, lambda: fitting_noise(original, job.task, until=until)
            )
        rest = replace(job.resources, max_time_s=self._left())
        self.trainer = Trainer(graph, self.trained_on, rest, batch_size=job.batch_size, teacher=teacher)
        self.stuck = graph.without_gradient()
        unreached = {r.where for r in self.stuck} | (set(job.model.weights) - set(graph.trainable))
        self.parts, self.fixed = _separate(job.parts, unreached)
        compressed = tuple(name for part in self.parts for name in part.weights)
        along = tuple(n for n in job.others if n not in unreached and n not in compressed)
        noise = fitting_noise(original, job.task, job.noise, until=until) if job.noise > 0 else {}
        # Where only the original teaches, it answers for any picture: the more they differ, the better.
        turned = not job.task.labelled
        shifts = fitting_shifts(original, job.task, turned=turned, until=until) if job.shift else {}
        # Without labels the loss says more than the share of equal decisions, of which few examples have few.
        self.learner = TrainedLearner(
            self.trainer,
            compressed,
            along,
            save=self._save if job.resources.checkpoint_dir is not None else None,
            progress=self._progress,
            by_loss=not job.task.labelled and job.task.metric is None,
            augmentation=Augmentation(shifts, noise),
            sufficient=self._sufficient(),
        )
        folder = job.resources.checkpoint_dir
        self.checkpoint = Checkpoint(folder, job.fingerprint) if folder is not None else None
        self.saved_s = time.monotonic()
        self.state = State()
        self.schedule: Schedule | None = None

    def _sufficient(self) -> Score | None:
        """Return what late states have to reach where the original remembers the validation examples.

        An original that makes next to no error on them was most likely trained on them. The test split is not
        asked: nothing may be chosen by it.
        """
        if not self.task.labelled or self.trainer.metric_name not in ("top1", "top5"):
            return None
        seen = self.trainer.evaluate("validation")
        if seen.metric is None or 1 - seen.metric > _REMEMBERED:
            return None
        return Score(math.inf, seen.metric - _FORGIVEN)

    def run(self) -> Trained:
        arrays = {n: self.model.array(n) for part in (*self.fixed, *self.parts) for n in part.weights}
        fixed = project(self.fixed, {n: arrays[n] for part in self.fixed for n in part.weights})
        self.trainer.graph.set_arrays({name: encoding.decode() for name, encoding in fixed.items()})
        if not self.parts:
            return self._untrained(fixed)
        if not self._resumed():
            coarse = [Part((n,), AdaptiveCodebook(2)) for part in self.parts for n in part.weights]
            one_bit = {n: e.decode() for n, e in project(coarse, arrays).items()}
            self.resources.progress(0.0, "finding the learning rate", None)
            seconds = 0.0 if self._left() is None else self._seconds_of_a_c_step(arrays)
            self.schedule = fit_schedule(
                self.learner, self.trained_on, one_bit, self.wishes, time_s=self._left(), c_step_s=seconds
            )
        assert self.schedule is not None
        self.state.elapsed_s += time.monotonic() - self.began
        result = compress(self.parts, self.learner, self.schedule, state=self.state, tell=self._tell)
        others = {
            name: array for name, array in result.others.items() if not _same(array, self.model.array(name))
        }
        chosen = result.points[result.chosen].step
        stopped = f"{result.stopped}; the state after step {chosen} of {len(result.points) - 1} is kept"
        training = self._facts(result.points, result.epochs, stopped)
        warnings = (*self._warnings(), *self._shortened(result))
        return Trained({**fixed, **result.encodings}, others, training, self.schedule, warnings)

    def _seconds_of_a_c_step(self, arrays: Mapping[str, Array]) -> float:
        """Measure a C step: how many there is time for."""
        began = time.monotonic()
        project(self.parts, {name: arrays[name] for part in self.parts for name in part.weights})
        return time.monotonic() - began

    def _shortened(self, result: Result) -> tuple[str, ...]:
        """Return what has to be said of a path that time has made shorter, or broken off."""
        assert self.schedule is not None
        made, wished = self.schedule.steps * self.schedule.epochs, self.schedule.wished
        if result.stopped.startswith(OUT_OF_TIME):
            made = result.epochs
        if made >= wished or self.schedule.mode == "dc":
            return ()
        said = made_in_time(made, wished)
        if self.job_limit is None:
            said += ", when this training began; taken up again it stays as short"
        return (said,)

    def _untrained(self, fixed: Mapping[str, Encoding]) -> Trained:
        found = self.trainer.evaluate()
        score = Score(found.loss, found.metric)
        point = TrainingPoint(0, None, None, score.loss, score.metric, None, time.monotonic() - self.began)
        training = self._facts((point,), 0.0, "no gradient reaches any of the weights")
        warning = "no gradient reaches the weights to compress; they were compressed directly"
        return Trained(fixed, {}, training, None, (*self._warnings(), warning))

    def _facts(self, points: tuple[TrainingPoint, ...], epochs: float, stopped: str) -> Training:
        names = {n for part in (*self.parts, *self.fixed) for n in part.weights}
        mixed = f"{self.mixtures} mixtures of two training examples added"
        return summary(
            self.trainer,
            self.task,
            self.learner.augmentation,
            epochs=epochs,
            stopped=stopped,
            points=points,
            without_gradient=[r for r in self.stuck if r.where in names],
            added=[mixed] if self.mixtures else (),
        )

    def _warnings(self) -> tuple[str, ...]:
        compressed = {n for part in self.fixed for n in part.weights}
        stuck = [r for r in self.stuck if r.where in compressed]
        told = [f"weight '{r.where}' was compressed without training: it {r.why}" for r in stuck]
        return (*self.trainer.warnings, *told)

    def _left(self) -> float | None:
        limit = self.resources.max_time_s
        return None if limit is None else max(limit - (time.monotonic() - self.began), 0.0)

    # progress ----------------------------------------------------------------------------------------------

    def _progress(self, step: int, fraction: float, words: str) -> None:
        assert self.schedule is not None
        steps = self._steps(step + 1)
        self.resources.progress((step + fraction) / steps, f"L step {step + 1} of {steps}, {words}", None)

    def _steps(self, step: int) -> int:
        """Return the number of L steps that the path has, as far as is known after so many."""
        assert self.schedule is not None
        return self.schedule.steps + (self.schedule.further if step > self.schedule.steps else 0)

    def _tell(self, state: State, point: TrainingPoint) -> None:
        assert self.schedule is not None
        steps = self._steps(state.step)
        words = f"step {state.step} of {steps}: compressed loss {point.compressed_loss:.4g}"
        if point.compressed_metric is not None:
            words += f", {self.trainer.metric_name} {point.compressed_metric:.4g}"
        if point.gap is not None:
            words += f", gap {point.gap:.3g}"
        self.resources.progress(min(state.step / steps, 1.0), words, point)
        either_end = state.step == 0 or self.schedule.ended(state.step, point.gap)
        if either_end or time.monotonic() - self.saved_s > _SAVE_EVERY_S:
            self._save()

    # checkpoints -------------------------------------------------------------------------------------------

    def _save(self) -> None:
        if self.checkpoint is None or self.schedule is None:
            return
        arrays, values = self.trainer.state()
        held = {f"trainer/{name}": array for name, array in arrays.items()}
        state = self.state
        for group in _GROUPS:
            held.update({f"{group}/{name}": array for name, array in getattr(state, group).items()})
        described = {}
        for group in _ENCODED:
            arrays, described[group] = taken_apart(getattr(state, group))
            held.update({f"{group}/{place}": array for place, array in arrays.items()})
        self.checkpoint.save(
            held,
            {
                "trainer": values,
                "schedule": dataclasses.asdict(self.schedule),
                "described": described,
                "step": state.step,
                "best_step": state.best_step,
                "best_score": None if state.best_score is None else dataclasses.asdict(state.best_score),
                "points": [dataclasses.asdict(point) for point in state.points],
                "epochs": state.epochs,
                "lr_factor": state.lr_factor,
                "elapsed_s": state.elapsed_s,
            },
        )
        self.saved_s = time.monotonic()

    def _resumed(self) -> bool:
        """Take up the state in the checkpoint folder, where there is one and it is asked for."""
        found = self.checkpoint.load() if self.checkpoint is not None and self.resources.resume else None
        if found is None:
            return False
        arrays, values = found
        groups: dict[str, dict[str, Array]] = {name: {} for name in ("trainer", *_GROUPS, *_ENCODED)}
        for key, array in arrays.items():
            group, _, name = key.partition("/")
            groups[group][name] = array
        self.trainer.restore(groups["trainer"], values["trainer"])
        self.schedule = Schedule(**values["schedule"])
        score = values["best_score"]
        theta, best_theta = (put_together(groups[g], values["described"][g]) for g in _ENCODED)
        self.state = State(
            step=values["step"],
            theta=theta,
            decoded={name: encoding.decode() for name, encoding in theta.items()},
            best_theta=best_theta,
            multipliers=groups["multipliers"],
            before=groups["before"],
            best=groups["best"],
            best_score=None if score is None else Score(**score),
            best_step=values["best_step"],
            points=[TrainingPoint(**point) for point in values["points"]],
            epochs=values["epochs"],
            lr_factor=values["lr_factor"],
            elapsed_s=values["elapsed_s"],
        )
        return True


def _separate(parts: Sequence[Part], unreached: set[str]) -> tuple[list[Part], list[Part]]:
    """Return the parts that training can move, and those of weights that no gradient reaches."""
    moving, fixed = [], []
    for part in parts:
        free = [i for i, n in enumerate(part.weights) if n not in unreached]
        if free:
            moving.append(Part(tuple(part.weights[i] for i in free), part.projection.of(free)))
        stuck = [i for i in range(len(part.weights)) if i not in free]
        fixed += [Part((part.weights[i],), part.projection.of([i])) for i in stuck]
    return moving, fixed


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and bool((a == b).all())
