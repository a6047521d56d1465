"""One training run: steps, epochs, and what happens when the loss is not a number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.graph.values import Value
from onnxcompress.engine.training.augmentation import Augmentation
from onnxcompress.engine.training.batches import prefetched
from onnxcompress.engine.training.evaluation import Evaluator
from onnxcompress.engine.training.flushing import flushed_denormals
from onnxcompress.engine.training.interruption import Interruption, held_back
from onnxcompress.engine.training.penalty import Penalty
from onnxcompress.engine.training.state import RunState, restore_optimizer

Stop = Literal["done", "time", "diverged"]

_HALVINGS = 8
_SHOW_EVERY_S = 0.1
_CHECK_EVERY_CUDA = 20
"""Steps between two looks at the loss on a GPU, each of which waits for all work given to it."""


@dataclass(frozen=True)
class Options:
    """The options of one run, as :meth:`~onnxcompress.engine.training.trainer.Trainer.run` takes them."""

    epochs: float
    lr: float
    momentum: float
    optimizer: Literal["sgd", "adam"]
    weight_decay: float
    save_every_s: float
    batch_size: int
    deadline: float
    schedule: Callable[[float], float] | None = None


@dataclass
class Hooks:
    """Who adds to a run, or is told of it."""

    penalty: Penalty | Callable[[], torch.Tensor] | None
    progress: Callable[[float, str], None]
    save: Callable[[], None] | None
    augmentation: Augmentation | None = None
    shown_s: float = field(default=-math.inf)
    saved_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        loss: mean task loss (without penalty) over the last epoch, on the training batches.
        epochs: passes over the training split that were made.
        stopped: ``"done"``, ``"time"`` (the limit was reached) or ``"diverged"`` (not a number, however
            small the learning rate).
        lr: the learning rate at the end.
    """

    loss: float
    epochs: float
    stopped: Stop
    lr: float


class Loop:
    """One run under way.

    Args:
        evaluator: graph, examples, loss and metric.
        task: the splits and the seed.
        options: of the run.
        hooks: of the run.
        weights: what the optimiser changes.
        changing: what training changes: the weights, and running statistics where they move.
        state: a new one, or one read from a checkpoint.
        resumed: whether ``state`` was read from a checkpoint.
        warn: takes sentences a person should see.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        task: Task,
        options: Options,
        hooks: Hooks,
        *,
        weights: Sequence[torch.nn.Parameter],
        changing: Sequence[torch.nn.Parameter],
        state: RunState,
        resumed: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._evaluator, self._task, self._options, self._hooks = evaluator, task, options, hooks
        self._weights, self._changing, self.state, self._warn = list(weights), list(changing), state, warn
        self._per_epoch = math.ceil(len(task.train) / options.batch_size)
        self._total = max(1, round(options.epochs * self._per_epoch))
        self._unseen: list[tuple[torch.Tensor, int]] = []
        self._interruption = Interruption()
        on_cpu = evaluator.batches.device.type == "cpu"
        self._check_every = 1 if on_cpu else _CHECK_EVERY_CUDA
        self.optimizer = self._new_optimizer()
        if resumed:
            restore_optimizer(self.optimizer, state)
        if state.snapshot is None:
            state.snapshot = self._copy()

    def run(self) -> Outcome:
        """Train to the end."""
        state, stopped = self.state, "done"
        with flushed_denormals(), held_back(active=self._hooks.save is not None) as self._interruption:
            while state.step < self._total and state.stopped is None:
                if self._epoch():
                    self._end_of_epoch()
                elif state.stopped is None and time.monotonic() >= self._options.deadline:
                    stopped = "time"
                    break
        if state.halvings:
            self._warn(self._taken_back())
        return self._outcome(state.stopped or stopped)  # type: ignore[arg-type]

    def between_epochs(self) -> bool:
        """Whether the next step starts an epoch, so that torch's generator will be seeded anew."""
        return self.state.step % self._per_epoch == 0

    # steps -------------------------------------------------------------------------------------------------

    def _epoch(self) -> bool:
        """Make the steps that are left of this epoch; False where it was broken off."""
        for indices, stack, rows in self._batches():
            if time.monotonic() >= self._options.deadline:
                self._look_at_loss()
                return False
            self._step(indices, stack, rows)
            last = self.state.step % self._per_epoch == 0 or self.state.step >= self._total
            if (last or self.state.step % self._check_every == 0) and not self._look_at_loss():
                self._take_back()
                return False
            if not last:
                self._tell()
        return True

    def _batches(self) -> Iterator[tuple[Array, Mapping[str, Value], torch.Tensor | None]]:
        """Yield the batches of the epoch that the next step lies in, from there on."""
        state, size, batches = self.state, self._options.batch_size, self._evaluator.batches
        epoch, done = divmod(state.step, self._per_epoch)
        seed = [self._task.seed, state.number, epoch]
        order = np.random.default_rng(seed).permutation(self._task.train)
        if state.random is None:
            torch.manual_seed(int(np.random.default_rng([*seed, 1]).integers(2**63)))
        else:
            torch.set_rng_state(state.random)
            state.random = None
        places = batches.rows(order)
        assert places is not None
        last = min(self._per_epoch, done + self._total - state.step)
        parts = (slice(k * size, (k + 1) * size) for k in range(done, last))
        if batches.cached:
            for part in parts:
                yield order[part], batches.inputs(order[part], places[part]), places[part]
        else:
            for part, stack in prefetched(parts, lambda p: batches.inputs(order[p])):
                yield order[part], stack, places[part]

    def _step(self, indices: Array, stack: Mapping[str, Value], rows: torch.Tensor | None) -> None:
        evaluator, state, penalty = self._evaluator, self.state, self._hooks.penalty
        labels = evaluator.batches.labels(indices, rows)
        augmentation, asked = self._hooks.augmentation, stack
        if augmentation is not None:
            asked = augmentation.shift(stack)
        teacher = None
        if evaluator.loss.needs_teacher:
            unchanged = asked is stack
            teacher = (
                evaluator.teacher.outputs(indices, rows) if unchanged else evaluator.teacher.answer(asked)
            )
        stack = asked if augmentation is None else augmentation.disturb(asked)
        self.optimizer.zero_grad(set_to_none=True)
        self._backward(stack, labels, teacher, len(indices))
        if isinstance(penalty, Penalty):
            penalty.add_gradient()
        elif penalty is not None:
            penalty().backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(state.step)
        self.optimizer.step()
        state.step += 1

    def _backward(
        self,
        stack: Mapping[str, Value],
        labels: torch.Tensor | None,
        teacher: Mapping[str, torch.Tensor] | None,
        count: int,
    ) -> None:
        """Add the gradient of the mean loss, call by call."""
        execution, loss_of = self._evaluator.execution, self._evaluator.loss
        for part in execution.slices(count, count):
            held = part.stop - part.start
            if held == count:
                loss = loss_of(execution.call(stack), labels, teacher)
            else:
                outputs = execution.call({n: v[part] for n, v in stack.items()})
                some = None if teacher is None else {n: v[part] for n, v in teacher.items()}
                loss = loss_of(outputs, None if labels is None else labels[part], some) * (held / count)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            self._unseen.append((loss.detach(), count))
        self.state.seen += count

    def _look_at_loss(self) -> bool:
        """Add up the losses of the last steps; False where one is not finite."""
        state = self.state
        for loss, count in self._unseen:
            state.loss += float(loss) * count
        self._unseen.clear()
        return math.isfinite(state.loss)

    def _take_back(self) -> None:
        """Return to the weights at the start of the epoch and halve the learning rate."""
        state = self.state
        assert state.snapshot is not None
        self._put(state.snapshot)
        state.factor /= 2
        state.halvings += 1
        self.optimizer = self._new_optimizer()
        state.step = (state.step - 1) // self._per_epoch * self._per_epoch
        state.loss, state.seen = 0.0, 0
        if state.halvings >= _HALVINGS:
            state.stopped = "diverged"

    def _taken_back(self) -> str:
        times = "once" if self.state.halvings == 1 else f"{self.state.halvings} times"
        rate = self._options.lr * self.state.factor
        end = ", and gave up" if self.state.stopped == "diverged" else ""
        return (
            f"the loss was not finite {times}; training went back to the last good weights with half the "
            f"learning rate, from {self._options.lr:.3g} down to {rate:.3g}{end}"
        )

    # epochs ------------------------------------------------------------------------------------------------

    def _end_of_epoch(self) -> None:
        state = self.state
        state.last_loss = state.loss / max(state.seen, 1)
        state.loss, state.seen = 0.0, 0
        state.snapshot = self._copy()
        self._tell()

    def _outcome(self, stopped: Stop) -> Outcome:
        state = self.state
        loss = state.loss / state.seen if state.seen else state.last_loss
        return Outcome(loss, state.step / self._per_epoch, stopped, self._lr(max(0, state.step - 1)))

    def _tell(self) -> None:
        """Report progress and save, each not too often; leave where a signal asks for it."""
        state, hooks, now = self.state, self._hooks, time.monotonic()
        if now - hooks.shown_s > _SHOW_EVERY_S:
            hooks.shown_s = now
            self._look_at_loss()
            loss = state.loss / state.seen if state.seen else state.last_loss
            text = f"epoch {state.step / self._per_epoch:.1f} of {self._options.epochs:g}, loss {loss:.4g}"
            hooks.progress(min(state.step / self._total, 1.0), text)
        due = self._interruption.asked or now - hooks.saved_s >= self._options.save_every_s
        if hooks.save is not None and due:
            self._look_at_loss()
            hooks.save()
            hooks.saved_s = time.monotonic()
        self._interruption.obey()

    # small parts -------------------------------------------------------------------------------------------

    def _lr(self, step: int) -> float:
        options = self._options
        planned = 1.0 if options.schedule is None else options.schedule(step / self._total)
        return options.lr * planned * self.state.factor

    def _copy(self) -> list[torch.Tensor]:
        return [p.detach().clone() for p in self._changing]

    @torch.no_grad()
    def _put(self, values: Sequence[torch.Tensor]) -> None:
        for parameter, value in zip(self._changing, values, strict=True):
            parameter.copy_(value)

    def _new_optimizer(self) -> torch.optim.Optimizer:
        options, common = self._options, {"weight_decay": self._options.weight_decay, "foreach": True}
        # As a group of its own it may be empty: a penalty trains what it brings, gates for one.
        weights = [{"params": self._weights}]
        if options.optimizer == "adam":
            return torch.optim.Adam(weights, options.lr, betas=(options.momentum, 0.999), **_any(common))
        nesterov = options.momentum > 0
        return torch.optim.SGD(
            weights, options.lr, momentum=options.momentum, nesterov=nesterov, **_any(common)
        )


def _any(options: dict[str, Any]) -> dict[str, Any]:
    return options
