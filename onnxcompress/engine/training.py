"""Training: one loop for every method.

With labels the loss compares with them, without labels with the outputs of the original model. The order of
the examples depends on (seed, number of the run, epoch) alone, so that a run can be taken up in its middle:
on a CPU, with the same number of threads, it gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.core.task import Task
from onnxcompress.engine.batches import CACHE_BYTES, Batches, prefetched
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.execution import Execution
from onnxcompress.engine.graph_values import Value
from onnxcompress.engine.losses import make_loss
from onnxcompress.engine.metrics import Metric, is_class_scores
from onnxcompress.engine.penalty import Penalty
from onnxcompress.engine.teacher import Teacher, array_outputs
from onnxcompress.engine.torchgraph import TorchGraph
from onnxcompress.engine.training_state import RunState, optimizer_arrays, restore_optimizer

Optimizer = Literal["sgd", "adam"]
Stop = Literal["done", "time", "early", "diverged"]

_HALVINGS = 8


@dataclass(frozen=True)
class Evaluation:
    """Loss and metric of the graph on some examples; ``metric`` is None where there is none."""

    loss: float
    metric: float | None
    examples: int


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        loss: mean task loss (without penalty) over the last epoch, on the training batches.
        epochs: passes over the training split that were made.
        best: evaluation of the state the graph was left in, where ``best`` or ``patience`` was asked for.
        stopped: ``"done"``, ``"time"`` (the limit was reached), ``"early"`` (no better for ``patience``
            epochs) or ``"diverged"`` (not a number, however small the learning rate).
        lr: the learning rate at the end.
    """

    loss: float
    epochs: float
    best: Evaluation | None
    stopped: Stop
    lr: float


@dataclass(frozen=True)
class Plan:
    """The options of one call of :meth:`Trainer.run`."""

    epochs: float
    lr: float
    momentum: float
    optimizer: Optimizer
    decay: float
    weight_decay: float
    best: bool
    patience: int | None
    save_every_s: float


@dataclass
class _Hooks:
    """Who is told of, or adds to, a run."""

    penalty: Penalty | Callable[[], torch.Tensor] | None
    progress: Callable[[float, str], None]
    save: Callable[[], None] | None
    shown_s: float = field(default=-math.inf)
    saved_s: float = field(default_factory=time.monotonic)


class Trainer:
    """Trains and evaluates a graph on a task.

    Made while the graph holds the original's weights: these are the teacher where the task has no labels.

    Args:
        graph: the graph; its parameters are changed in place.
        task: data, loss, metric and seed.
        resources: device, time limit, threads, whom to tell of progress. The time limit counts from here.
        batch_size: examples a step; None: 128, fewer where there are few examples.
        bn: ``"eval"``: BatchNormalization keeps its statistics and Dropout is off, as fits fine-tuning;
            ``"train"``: both as in training.
        clip_norm: the gradient's largest ℓ2 norm; None: not clipped.
        cache_bytes: inputs up to this size are kept in memory.

    Attributes:
        warnings: sentences that came up; grows.
        loss_name: for the report.
        metric_name: for the report.
        higher_is_better: direction of the metric.

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
        bn: Literal["eval", "train"] = "eval",
        clip_norm: float | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._device = torch_device(resources.device)
        if resources.threads is not None:
            torch.set_num_threads(resources.threads)
        limit = resources.max_time_s
        self._deadline = math.inf if limit is None else time.monotonic() + limit
        self.graph, self._task, self._resources = graph.to(self._device), task, resources
        self._bn, self._clip_norm = bn, clip_norm
        self.batch_size = min(batch_size or 128, len(task.train))
        self.warnings: list[str] = []
        self._runs = 0
        self._state: RunState | None = None
        dtype = next((p.dtype for p in graph.parameters() if p.is_floating_point()), torch.float32)
        self._batches = Batches(task, dtype, self._device, cache_bytes=cache_bytes)
        feeding = getattr(task.samples, "feeding", None) or Feeding(False, None)
        probe = self._batches.inputs(task.train[: max(3, 2 * (feeding.fixed or 1))])
        graph.eval()
        self._execution = Execution(graph, feeding, probe)
        if not self._execution.outputs:
            raise UnsupportedError("the model has no output to train towards", why="none holds real numbers")
        self._set_goal()

    def _set_goal(self) -> None:
        """Make teacher, loss and metric."""
        task = self._task
        target = getattr(task.samples, "targets", None)
        output = (target.output if target is not None else None) or self._execution.outputs[0]
        metric = task.metric
        callable_or_distilled = not isinstance(task.loss, str) or any(n in task.loss for n in ("kl", "l2"))
        needs = callable_or_distilled or metric not in ("top1", "top5", "mse")
        self._teacher = Teacher(self._execution, self._batches, needed=needs)
        facts = self._teacher.facts(output if task.labelled else None)
        self._loss = make_loss(task.loss, facts, task.labelled)
        self._output = output if task.labelled else None
        if metric is None:
            one = self._teacher.outputs(self._batches.known[:1])
            metric = "agreement" if any(is_class_scores(v) for v in one.values()) else "relative_l2"
        self._metric: str | Callable[..., Any] = metric
        self.loss_name, self.metric_name = self._loss.name, Metric(metric).name
        self.higher_is_better = Metric(metric).higher_is_better
        if output in facts.probabilities and "ce" in self._loss.name.split("+"):
            self.warnings.append(f"output '{output}' holds probabilities; the loss is −log of them")

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches that make one pass over the training split."""
        return math.ceil(len(self._task.train) / self.batch_size)

    @property
    def out_of_time(self) -> bool:
        """Whether the time limit is reached."""
        return time.monotonic() >= self._deadline

    # evaluating --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self,
        which: Literal["train", "validation", "test"] | Array = "validation",
        *,
        arrays: Mapping[str, Array] | None = None,
        limit: int | None = None,
    ) -> Evaluation:
        """Return loss and metric in evaluation mode.

        Args:
            which: a split, or indices of examples.
            arrays: weights to use instead of the graph's for this evaluation (Δ(Θ) of a compression).
            limit: look at the first so many examples only.
        """
        indices = self._indices(which)[:limit]
        metric = Metric(self._metric, self._output)
        total, training = 0.0, self.graph.training
        self.graph.eval()
        size = max(self.batch_size, 512)
        try:
            with self._holding(arrays or {}):
                for start in range(0, len(indices), size):
                    part = indices[start : start + size]
                    outputs, labels, teacher = self._look(part)
                    total += float(self._loss(outputs, labels, teacher)) * len(part)
                    metric.add(
                        array_outputs(outputs),
                        None if labels is None else labels.cpu().numpy(),
                        None if teacher is None else array_outputs(teacher),
                    )
        finally:
            self.graph.train(training)
        return Evaluation(total / max(len(indices), 1), metric.value(), len(indices))

    def _indices(self, which: str | Array) -> Array:
        if not isinstance(which, str):
            return np.asarray(which)
        splits = {"train": self._task.train, "validation": self._task.validation, "test": self._task.test}
        found = splits[which]
        if found is None:
            raise UsageError("the data has no test split")
        return found

    def _look(
        self, indices: Array
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None, dict[str, torch.Tensor] | None]:
        rows = self._rows(indices)
        outputs = self._execution.run(self._batches.inputs(indices, rows))
        teacher = self._teacher.outputs(indices, rows) if self._teacher.needed else None
        return outputs, self._batches.labels(indices, rows), teacher

    def _rows(self, indices: Array) -> torch.Tensor | None:
        """Return places in memory; None for examples of the test split, which is not kept."""
        known = self._batches.known
        places = np.searchsorted(known, indices)
        if len(indices) and not (known[np.minimum(places, len(known) - 1)] == indices).all():
            return None
        return torch.from_numpy(places).to(self._device)

    @contextmanager
    def _holding(self, arrays: Mapping[str, Array]) -> Iterator[None]:
        """Let the graph hold other weights for a while; its own are set aside, not copied."""
        kept = []
        for name, array in arrays.items():
            parameter = self.graph.weight(name)
            other = torch.from_numpy(np.ascontiguousarray(array, dtype=_numpy_type(parameter.dtype)))
            kept.append((parameter, parameter.data))
            parameter.data = other.to(self._device).reshape(parameter.shape)
        try:
            yield
        finally:
            for parameter, data in kept:
                parameter.data = data

    # training ----------------------------------------------------------------------------------------------

    def run(
        self,
        epochs: float,
        *,
        lr: float,
        momentum: float = 0.9,
        optimizer: Optimizer = "sgd",
        decay: float = 1.0,
        weight_decay: float = 0.0,
        penalty: Penalty | Callable[[], torch.Tensor] | None = None,
        parameters: Sequence[str] | None = None,
        best: bool = False,
        patience: int | None = None,
        progress: Callable[[float, str], None] | None = None,
        save: Callable[[], None] | None = None,
        save_every_s: float = 30.0,
    ) -> Outcome:
        """Train; a run that :meth:`restore` found in its middle is taken up there.

        Args:
            epochs: passes over the training split; fractions are allowed, one step is the least.
            lr: learning rate.
            momentum: of SGD (Nesterov's), or β1 of Adam.
            optimizer: ``"sgd"`` or ``"adam"``; its state starts anew with every run.
            decay: the learning rate is multiplied by this after every epoch.
            weight_decay: factor of the ℓ2 penalty on all parameters trained.
            penalty: a scalar to add to the loss, or an object that adds its own gradient, each step.
            parameters: weights to train; None: all that can be.
            best: leave the graph in the state, of those after every epoch and that at the start, whose
                validation metric (at equal metric, loss) is best; otherwise in the last state.
            patience: stop after so many epochs without a better one; implies ``best``.
            progress: told (fraction of this run, words); None: ``resources.progress``.
            save: called about every ``save_every_s`` seconds and at the end of epochs after that time,
                between two steps, where :meth:`state` is complete: writes a checkpoint.
            save_every_s: see ``save``.
        """
        _check_options(epochs, lr, momentum, decay)
        plan = Plan(
            epochs, lr, momentum, optimizer, decay, weight_decay, best or patience is not None, patience,
            save_every_s,
        )  # fmt: skip
        hooks = _Hooks(penalty, progress or (lambda f, text: self._resources.progress(f, text, None)), save)
        names = tuple(parameters) if parameters is not None else self.graph.trainable
        frozen = self._freeze_others(names)
        devices = [self._device] if self._device.type == "cuda" else []
        self.graph.train(self._bn == "train")
        try:
            with torch.random.fork_rng(devices):
                return self._run(plan, hooks, names)
        finally:
            self.graph.eval()
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _run(self, plan: Plan, hooks: _Hooks, names: Sequence[str]) -> Outcome:
        weights = [self.graph.weight(name) for name in names]
        resumed = self._state is not None
        state = self._state or RunState(number=self._runs)
        self._state = state
        optimizer = _optimizer(plan, weights)
        if resumed:
            restore_optimizer(optimizer, state)
        elif plan.best:
            self._keep_if_best(state, weights)
        if state.snapshot is None:
            state.snapshot = self._copy(weights)
        self._optimizer: torch.optim.Optimizer | None = optimizer
        total = max(1, round(plan.epochs * self.steps_per_epoch))
        stopped: Stop = "done"
        while state.step < total and state.stopped is None:
            for indices, loaded in self._epoch(state, total):
                if self.out_of_time:
                    stopped = "time"
                    break
                if not self._step(plan, hooks, weights, indices, loaded):
                    break
                self._tell(plan, hooks, total)
            if stopped == "time":
                break
            self._end_of_epoch(plan, hooks, weights, total)
        outcome = self._outcome(plan, weights, state.stopped or stopped)
        self._state, self._optimizer = None, None
        self._runs += 1
        return outcome

    def _epoch(self, state: RunState, total: int) -> Iterator[tuple[Array, Any]]:
        """Yield the batches of the epoch that ``state.step`` lies in, from there on."""
        epoch, done = divmod(state.step, self.steps_per_epoch)
        seed = [self._task.seed, state.number, epoch]
        order = np.random.default_rng(seed).permutation(self._task.train)
        if state.random is None:
            torch.manual_seed(int(np.random.default_rng([*seed, 1]).integers(2**63)))
        else:
            torch.set_rng_state(state.random)
            state.random = None
        if self._batches.cached:
            rows = self._batches.rows(order)
        last = min(self.steps_per_epoch, done + total - state.step)
        starts = [k * self.batch_size for k in range(done, last)]
        parts = (slice(s, s + self.batch_size) for s in starts)
        if self._batches.cached:
            for part in parts:
                yield order[part], rows[part]
        else:
            yield from ((order[p], stack) for p, stack in prefetched(parts, lambda p: self._read(order[p])))

    def _read(self, indices: Array) -> dict[str, Value]:
        return self._batches.inputs(indices)

    def _step(
        self,
        plan: Plan,
        hooks: _Hooks,
        weights: Sequence[torch.nn.Parameter],
        indices: Array,
        loaded: Any,
    ) -> bool:
        """Make one step; False where the loss was not finite and the last good weights were taken back."""
        state, optimizer = self._state, self._optimizer
        assert state is not None
        assert optimizer is not None
        rows = loaded if isinstance(loaded, torch.Tensor) else None
        stack = self._batches.inputs(indices, rows) if rows is not None else loaded
        if rows is None:
            rows = self._rows(indices)
        labels = self._batches.labels(indices, rows)
        teacher = self._teacher.outputs(indices, rows) if self._loss.needs_teacher else None
        optimizer.zero_grad(set_to_none=True)
        loss = self._backward(stack, labels, teacher, len(indices))
        own = isinstance(hooks.penalty, Penalty)
        if hooks.penalty is not None and not own:
            hooks.penalty().backward()  # type: ignore[operator]
        if own:
            hooks.penalty.add_gradient()  # type: ignore[union-attr]
        if not math.isfinite(loss):
            self._take_back(plan, weights)
            return False
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(weights, self._clip_norm)
        epoch = state.step // self.steps_per_epoch
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * plan.decay**epoch * state.factor
        optimizer.step()
        state.step += 1
        state.seen += len(indices)
        state.loss += loss * len(indices)
        return True

    def _backward(
        self,
        stack: Mapping[str, Value],
        labels: torch.Tensor | None,
        teacher: Mapping[str, torch.Tensor] | None,
        count: int,
    ) -> float:
        """Add the gradient of the mean loss, call by call, and return that loss."""
        total = 0.0
        for part in self._execution.slices(count, count):
            whole = part.stop - part.start == count
            inputs = stack if whole else {n: v[part] for n, v in stack.items()}
            outputs = self._execution.call(inputs)
            loss = self._loss(
                outputs,
                labels if whole or labels is None else labels[part],
                teacher if whole or teacher is None else {n: v[part] for n, v in teacher.items()},
            )
            share = loss if whole else loss * ((part.stop - part.start) / count)
            if share.requires_grad:
                share.backward()
            total += float(share.detach())
        return total

    def _take_back(self, plan: Plan, weights: Sequence[torch.nn.Parameter]) -> None:
        """Return to the weights at the start of the epoch and halve the learning rate."""
        state = self._state
        assert state is not None
        assert state.snapshot is not None
        self._put(weights, state.snapshot)
        state.factor /= 2
        state.halvings += 1
        self._optimizer = _optimizer(plan, weights)
        state.step -= state.step % self.steps_per_epoch
        state.loss, state.seen = 0.0, 0
        self.warnings.append(
            f"the loss was not finite; training went back to the last good weights with learning rate "
            f"{plan.lr * state.factor:g}"
        )
        if state.halvings >= _HALVINGS:
            state.stopped = "diverged"

    def _end_of_epoch(
        self, plan: Plan, hooks: _Hooks, weights: Sequence[torch.nn.Parameter], total: int
    ) -> None:
        state = self._state
        assert state is not None
        if state.stopped is not None or (state.step % self.steps_per_epoch and state.step < total):
            return
        state.last_loss = state.loss / max(state.seen, 1)
        state.loss, state.seen = 0.0, 0
        if plan.best:
            better = self._keep_if_best(state, weights)
            state.worse = 0 if better else state.worse + 1
            if plan.patience is not None and state.worse >= plan.patience:
                state.stopped = "early"
        state.snapshot = self._copy(weights)
        self._tell(plan, hooks, total)

    def _tell(self, plan: Plan, hooks: _Hooks, total: int) -> None:
        """Report progress and save, each not too often."""
        state, now = self._state, time.monotonic()
        assert state is not None
        if now - hooks.shown_s > 0.1:
            hooks.shown_s = now
            loss = state.loss / state.seen if state.seen else state.last_loss
            text = f"epoch {state.step / self.steps_per_epoch:.1f} of {plan.epochs:g}, loss {loss:.4g}"
            if state.best_metric is not None:
                text += f", {self.metric_name} {state.best_metric:.4g}"
            hooks.progress(min(state.step / total, 1.0), text)
        if hooks.save is not None and now - hooks.saved_s >= plan.save_every_s:
            hooks.save()
            hooks.saved_s = time.monotonic()

    def _outcome(self, plan: Plan, weights: Sequence[torch.nn.Parameter], stopped: Stop) -> Outcome:
        state = self._state
        assert state is not None
        best = None
        if plan.best:
            if stopped == "time" and state.seen:
                self._keep_if_best(state, weights)
            assert state.best is not None
            self._put(weights, state.best)
            best = Evaluation(state.best_loss, state.best_metric, len(self._task.validation))
        loss = state.loss / state.seen if state.seen else state.last_loss
        epoch = max(0, state.step - 1) // self.steps_per_epoch
        lr = plan.lr * plan.decay**epoch * state.factor
        return Outcome(loss, state.step / self.steps_per_epoch, best, stopped, lr)

    # keeping -----------------------------------------------------------------------------------------------

    def _keep_if_best(self, state: RunState, weights: Sequence[torch.nn.Parameter]) -> bool:
        found = self.evaluate()
        metric = Metric(self._metric)
        new, old = found.metric, state.best_metric
        better = old is None or (new is not None and metric.better(new, old))
        if not better and new == old:
            better = found.loss < state.best_loss
        if better or state.best is None:
            state.best = self._copy(weights)
            state.best_metric, state.best_loss = new, found.loss
        return better

    def _copy(self, weights: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
        return [w.detach().clone() for w in self._everything(weights)]

    def _put(self, weights: Sequence[torch.nn.Parameter], values: Sequence[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._everything(weights), values, strict=True):
                parameter.copy_(value)

    def _everything(self, weights: Sequence[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
        """Return what training changes: the weights, and running statistics where they move."""
        if self._bn == "eval":
            return list(weights)
        return list(self.graph.parameters())

    def _freeze_others(self, names: Sequence[str]) -> list[torch.nn.Parameter]:
        chosen = {id(self.graph.weight(name)) for name in names}
        others = [p for p in self.graph.parameters() if p.requires_grad and id(p) not in chosen]
        for parameter in others:
            parameter.requires_grad_(False)
        return others

    # state -------------------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return all that training has changed, as (arrays, plain values) for a checkpoint."""
        arrays = {f"weight/{k}": p.detach().cpu().numpy() for k, p in enumerate(self.graph.parameters())}
        values: dict[str, Any] = {"runs": self._runs, "warnings": list(self.warnings), "run": None}
        if self._state is not None:
            self._state.random = torch.get_rng_state()
            values["run"] = self._state.values()
            arrays.update(self._state.arrays())
            if self._optimizer is not None:
                arrays.update(optimizer_arrays(self._optimizer))
            self._state.random = None
        return arrays, values

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up the state that :meth:`state` returned; the next run continues one that was under way."""
        with torch.no_grad():
            for k, parameter in enumerate(self.graph.parameters()):
                parameter.copy_(torch.from_numpy(np.ascontiguousarray(arrays[f"weight/{k}"])))
        self._runs, self.warnings = int(values["runs"]), list(values["warnings"])
        run = values["run"]
        self._state = RunState.read(run, arrays, self._device) if run is not None else None


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


def _optimizer(plan: Plan, weights: Sequence[torch.nn.Parameter]) -> torch.optim.Optimizer:
    if plan.optimizer == "adam":
        return torch.optim.Adam(
            weights, plan.lr, betas=(plan.momentum, 0.999), weight_decay=plan.weight_decay, foreach=True
        )
    return torch.optim.SGD(
        weights,
        plan.lr,
        momentum=plan.momentum,
        nesterov=plan.momentum > 0,
        weight_decay=plan.weight_decay,
        foreach=True,
    )


def _check_options(epochs: float, lr: float, momentum: float, decay: float) -> None:
    for name, value, good in (
        ("--epochs", epochs, epochs > 0),
        ("--lr", lr, lr > 0),
        ("--momentum", momentum, 0 <= momentum < 1),
        ("--decay", decay, decay > 0),
    ):
        if not good or not math.isfinite(value):
            raise UsageError(f"{name} cannot be {value:g}")


def _numpy_type(dtype: torch.dtype) -> Any:
    return np.float64 if dtype is torch.float64 else np.float32
