"""Training: one trainer for every method.

With labels the loss compares with them, without labels with the outputs of the original model. The order of
the examples depends on (seed, number of the run, epoch) alone, so that a run can be taken up in its middle:
on a CPU, with the same number of threads, it gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.core.task import Task
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.batches import CACHE_BYTES
from onnxcompress.engine.training.evaluation import Evaluation, Evaluator
from onnxcompress.engine.training.execution import MOST_AT_ONCE
from onnxcompress.engine.training.loop import Hooks, Loop, Options, Outcome
from onnxcompress.engine.training.penalty import Penalty, QuadraticPenalty
from onnxcompress.engine.training.state import RunState, optimizer_arrays

__all__ = ["Evaluation", "Outcome", "Penalty", "QuadraticPenalty", "Trainer", "torch_device"]

KEPT_BYTES, LEAST_BATCH = 4 << 30, 8
"""What a step may keep of its examples for the gradient, and how many it has at least, where no size of a
batch is asked for."""


AHEAD_SHARE = 0.5
"""Part of a limited time after which no more answers of the original are computed ahead."""

LOOK_SHARE, LEAST_LOOKED_AT = 0.1, 16
"""Part of a limited time that one look at the validation split may take; examples it looks at in any case."""


class Trainer:
    """Trains and evaluates a graph on a task.

    Made while the graph holds the original's weights: these are the teacher where the task has no labels.

    Args:
        graph: the graph; its parameters are changed in place.
        task: data, loss, metric and seed.
        resources: device, time limit, whom to tell of progress. The time limit counts from here.
        batch_size: examples a step; None: ``usual``, fewer where there are few examples or each is large.
        usual: see ``batch_size``.
        bn: ``"eval"``: BatchNormalization keeps its statistics and Dropout is off, as fits fine-tuning;
            ``"train"``: both as in training, unless the graph is called with single examples, of which
            there are no statistics to learn from.
        cache_bytes: inputs up to this size are kept in memory.
        teacher: the original model where it is not what the graph is now: it was cut in between.
        classes: see :class:`~onnxcompress.engine.training.evaluation.Evaluator`.

    Attributes:
        graph: the graph.
        device: where it trains.
        batch_size: examples a step.
        alone: whether every call holds one example.
        moving: whether BatchNormalization and Dropout are as in training when it trains.
        warnings: sentences that came up; grows.
        loss_name: for the report.
        metric_name: for the report.
        assumed_scores: outputs that the loss takes for scores of classes by their shape alone.
        higher_is_better: direction of the metric.
        validation_examples: how many of the validation split are looked at: all, unless time is limited.

    Raises:
        UsageError: the device is not there.
        UnsupportedError: the graph has no output that a loss can be taken of.
        DataError: the data cannot be read.
    """

    def __init__(
        self,
        graph: TorchGraph,
        task: Task,
        resources: Resources,
        *,
        batch_size: int | None = None,
        usual: int = 128,
        bn: Literal["eval", "train"] = "eval",
        cache_bytes: int = CACHE_BYTES,
        teacher: TorchGraph | None = None,
        classes: bool = False,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"--batch-size cannot be {batch_size}")
        self.device = torch_device(resources.device)
        limit = resources.max_time_s
        began = time.monotonic()
        self._deadline = math.inf if limit is None else began + limit
        self.graph, self._task, self._resources = graph.to(self.device), task, resources
        self._evaluator = Evaluator(
            self.graph,
            task,
            self.device,
            cache_bytes=cache_bytes,
            deadline=math.inf if limit is None else began + AHEAD_SHARE * limit,
            teacher=None if teacher is None else teacher.to(self.device),
            classes=classes,
        )
        self.warnings = [*self._evaluator.warnings]
        self.batch_size = min(batch_size or self._fitting(usual), len(task.train))
        self.alone = min(self.batch_size, self._evaluator.execution.group or self.batch_size) == 1
        self.moving = bn == "train" and not self.alone
        metric = self._evaluator.metric()
        self.loss_name, self.metric_name = self._evaluator.loss.name, metric.name
        self.assumed_scores = self._evaluator.assumed_scores
        self.higher_is_better = metric.higher_is_better
        self.validation_examples = self._affordable(math.inf if limit is None else LOOK_SHARE * limit)
        self._runs = 0
        self._loop: Loop | None = None
        self._restored: RunState | None = None

    def _fitting(self, usual: int) -> int:
        """Return the usual size of a batch, or as many examples as a step may keep the values of."""
        each, wanted = self._evaluator.execution.kept_bytes, min(usual, len(self._task.train))
        fitting = max(KEPT_BYTES // max(each, 1), LEAST_BATCH)
        if fitting >= wanted:
            return usual
        self.warnings.append(
            f"steps of {fitting} examples instead of {wanted}, which would need about "
            f"{wanted * each / 1e9:.2g} GB; --batch-size chooses"
        )
        return fitting

    def _affordable(self, seconds: float) -> int:
        """Return how many validation examples can be looked at in so many seconds."""
        there, each = len(self._task.validation), self._evaluator.teacher.example_s
        if there <= LEAST_LOOKED_AT or there * each <= seconds:
            return there
        affordable = max(LEAST_LOOKED_AT, int(seconds / each))
        self.warnings.append(
            f"{affordable} of the {there} validation examples are looked at: all take {each * there:,.0f} s "
            "each time; more --max-time allows it"
        )
        return affordable

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that make one pass over the training split."""
        return math.ceil(len(self._task.train) / self.batch_size)

    @property
    def seconds_left(self) -> float:
        """Seconds to the time limit; infinite where there is none."""
        return self._deadline - time.monotonic()

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self._deadline

    def evaluate(
        self,
        which: Literal["train", "validation", "test"] | Array = "validation",
        *,
        arrays: Mapping[str, Array] | None = None,
        limit: int | None = None,
    ) -> Evaluation:
        """Return loss and metric in evaluation mode.

        Args:
            which: a split, or indices of examples; of validation examples as many as limited time allows.
            arrays: weights to use instead of the graph's for this evaluation (Δ(Θ) of a compression).
            limit: look at the first so many examples only.
        """
        if isinstance(which, str):
            splits = {"train": self._task.train, "validation": self._task.validation, "test": self._task.test}
            indices = splits[which]
            if indices is None:
                raise UsageError(f"the data has no {which} split")
            if which == "validation":
                indices = indices[: self.validation_examples]
        else:
            indices = np.asarray(which)
        return self._evaluator.evaluate(indices[:limit], arrays)

    def idle_loss(self, limit: int | None = None) -> float:
        """Return the loss on validation examples of a network that gives one answer to all of them.

        Args:
            limit: look at the first so many examples only.
        """
        indices = np.asarray(self._task.validation)[: self.validation_examples]
        return self._evaluator.idle_loss(indices[:limit])

    def estimate_statistics(self, batches: int) -> None:
        """Let the running statistics of BatchNormalization become the mean of those of training batches.

        Their own mean, which weighs the last batches most, would keep what was before for as long as the
        momentum says: of 0.99, which Keras uses, half is left after 69 batches.

        Args:
            batches: most to look at; there may be fewer.
        """
        order = np.random.default_rng([self._task.seed, 0xB4]).permutation(self._task.train)
        count = min(batches, max(1, len(order) // self.batch_size))
        moving = {n: m for n, m in self.graph.momenta.items() if m < 1}
        weights = {name: self.graph.weight(name) for name in moving}
        sums = {name: torch.zeros_like(w, dtype=torch.float64) for name, w in weights.items()}
        self.graph.train()
        try:
            with torch.no_grad(), torch.random.fork_rng([]):
                for part in self._calls(order[: count * self.batch_size]):
                    before = {name: w.to(torch.float64, copy=True) for name, w in weights.items()}
                    self._evaluator.look(part)
                    for name, share in moving.items():
                        own = (weights[name].double() - share * before[name]) / (1 - share)
                        sums[name] += own * (len(part) / min(len(order), count * self.batch_size))
                for name, weight in weights.items():
                    weight.copy_(sums[name])
        finally:
            self.graph.eval()

    def _calls(self, indices: Array) -> Iterator[Array]:
        """Yield the examples of each call that batches take: statistics move at every one."""
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            for part in self._evaluator.execution.slices(len(batch), MOST_AT_ONCE):
                yield batch[part]

    def run(
        self,
        epochs: float,
        *,
        lr: float,
        momentum: float = 0.9,
        optimizer: Literal["sgd", "adam"] = "sgd",
        schedule: Callable[[float], float] | None = None,
        weight_decay: float = 0.0,
        penalty: Penalty | Callable[[], torch.Tensor] | None = None,
        parameters: Sequence[str | torch.nn.Parameter] | None = None,
        augmentation: Augmentation | None = None,
        progress: Callable[[float, str], None] | None = None,
        save: Callable[[], None] | None = None,
        save_every_s: float = 30.0,
        until: float = math.inf,
    ) -> Outcome:
        """Train; a run that :meth:`restore` found in its middle is taken up there.

        Args:
            epochs: passes over the training split; fractions are allowed, one step is the least.
            lr: learning rate.
            momentum: of SGD (Nesterov's), or β1 of Adam.
            optimizer: ``"sgd"`` or ``"adam"``; its state starts anew with every run.
            schedule: what the learning rate is multiplied by, of the part of the run that is done, 0 to 1.
            weight_decay: factor of the ℓ2 penalty on all parameters trained.
            penalty: a scalar to add to the loss, or an object that adds its own gradient, each step.
            parameters: weights to train, by name, and other parameters; None: all weights that can be.
            augmentation: changes examples while training; evaluation sees them as they are.
            progress: told (fraction of this run, words); None: ``resources.progress``.
            save: called about every ``save_every_s`` seconds, between two steps, where :meth:`state` is
                complete: writes a checkpoint.
            save_every_s: see ``save``.
            until: moment of ``time.monotonic`` at which the run ends, unless the time limit ends it before.
        """
        for name, value, good in (
            ("--epochs", epochs, epochs > 0),
            ("--lr", lr, lr > 0),
            ("--momentum", momentum, 0 <= momentum < 1),
        ):
            if not good or not math.isfinite(value):
                raise UsageError(f"{name} cannot be {value:g}")
        options = Options(
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            optimizer=optimizer,
            weight_decay=weight_decay,
            save_every_s=save_every_s,
            batch_size=self.batch_size,
            deadline=min(self._deadline, until),
            schedule=schedule,
        )
        report = progress or (lambda fraction, text: self._resources.progress(fraction, text, None))
        chosen = self.graph.trainable if parameters is None else parameters
        weights = [self.graph.weight(p) if isinstance(p, str) else p for p in chosen]
        return self._run(options, Hooks(penalty, report, save, augmentation), weights)

    def _run(self, options: Options, hooks: Hooks, weights: list[torch.nn.Parameter]) -> Outcome:
        chosen = {id(weight) for weight in weights}
        others = [p for p in self.graph.parameters() if p.requires_grad and id(p) not in chosen]
        for parameter in others:
            parameter.requires_grad_(False)
        state, self._restored = self._restored, None
        self.graph.train(self.moving)
        try:
            with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
                self._loop = Loop(
                    self._evaluator,
                    self._task,
                    options,
                    hooks,
                    weights=weights,
                    changing=list(self.graph.parameters()) if self.moving else weights,
                    state=state or RunState(self._runs),
                    resumed=state is not None,
                    warn=self.warnings.append,
                )
                outcome = self._loop.run()
        finally:
            self.graph.eval()
            for parameter in others:
                parameter.requires_grad_(True)
        self._loop = None
        self._runs += 1
        return outcome

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """Let runs leave nothing behind: weights are as before, and later runs draw as if there were none."""
        held, runs = self.graph.arrays(), self._runs
        try:
            yield
        finally:
            self.graph.set_arrays(held)
            self._runs = runs

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all that training has changed, as (arrays, plain values) for a checkpoint."""
        arrays = {f"weight/{k}": p.detach().cpu().numpy() for k, p in enumerate(self.graph.parameters())}
        values: dict[str, Any] = {"runs": self._runs, "warnings": list(self.warnings), "run": None}
        values["validation_examples"] = self.validation_examples
        loop = self._loop
        if loop is not None:
            values["run"] = loop.state.values()
            arrays.update(loop.state.arrays())
            arrays.update(optimizer_arrays(loop.optimizer))
            if not loop.between_epochs():
                arrays["random"] = torch.get_rng_state().numpy()
        return arrays, values

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up the state that :meth:`state` returned; the next run continues one that was under way."""
        with torch.no_grad():
            for k, parameter in enumerate(self.graph.parameters()):
                # not `ascontiguousarray`, which gives a number on its own an axis
                parameter.copy_(torch.from_numpy(np.array(arrays[f"weight/{k}"], order="C")))
        self._runs, self.warnings = int(values["runs"]), list(values["warnings"])
        # What was found on so many examples is compared with what will be.
        self.validation_examples = int(values["validation_examples"])
        run = values["run"]
        self._restored = RunState.read(run, arrays, self.device) if run is not None else None


def torch_device(name: str) -> torch.device:
    """Return the torch device; raises UsageError where this machine has none of that kind."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"unknown device '{name}'", fix="known: cpu, cuda, cuda:0") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        why = "torch was installed without CUDA" if torch.version.cuda is None else "no CUDA device is found"
        raise UsageError(f"device '{name}' cannot be used", why=why, fix="use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported", fix="known: cpu, cuda, cuda:0")
    return device
