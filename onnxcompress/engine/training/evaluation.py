"""Evaluation: a graph on the examples of a task, measured by the task's loss and metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.task import Task
from onnxcompress.engine import class_scores
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.measures.metrics import Metric, is_class_scores
from onnxcompress.engine.training.batches import Batches
from onnxcompress.engine.training.execution import Execution
from onnxcompress.engine.training.losses import CLASSES_LOSS, make_loss, with_others
from onnxcompress.engine.training.teacher import Teacher, array_outputs

_CHUNK = 512

ONE_ANSWER = (1.0, 0.3, 0.1, 0.03, 0.0)
"""Shares of the mean output that are tried as one answer to everything."""


@dataclass(frozen=True)
class Evaluation:
    """Loss and metric of the graph on some examples; ``metric`` is None where there is none."""

    loss: float
    metric: float | None
    examples: int


class Evaluator:
    """A graph, the examples of a task, the original model as teacher, and the task's loss and metric.

    Made while the graph holds the original's weights.

    Args:
        graph: the graph.
        task: data, loss and metric.
        device: where the graph is.
        cache_bytes: inputs up to this size are kept in memory.
        deadline: moment of ``time.monotonic`` that ends what is computed ahead.
        teacher: the original model where it is another one; None: the graph as it is now.
        classes: whether, without labels or a loss of the user's choice, outputs that look like scores of
            classes are held to the original's by ``CLASSES_LOSS``.

    Attributes:
        batches: the examples as tensors.
        execution: runs the graph on them.
        teacher: the original model's outputs.
        loss: the task's loss, with that of the outputs that labels say nothing of.
        facts: what it knows of the outputs.
        guarded: whether there are such outputs, and the user has not chosen the loss.
        assumed_scores: outputs that ``loss`` takes for scores of classes by nothing but their shape.
        warnings: sentences a person should see.

    Raises:
        UnsupportedError: the graph has no output that a loss can be taken of.
    """

    def __init__(
        self,
        graph: TorchGraph,
        task: Task,
        device: torch.device,
        *,
        cache_bytes: int,
        deadline: float = math.inf,
        teacher: TorchGraph | None = None,
        classes: bool = False,
    ) -> None:
        self._graph, self.warnings = graph, list[str]()
        dtype = next((p.dtype for p in graph.parameters() if p.is_floating_point()), torch.float32)
        self.batches = Batches(task, dtype, device, cache_bytes=cache_bytes)
        feeding = getattr(task.samples, "feeding", None) or Feeding(False, None)
        probe = self.batches.inputs(task.train[: max(3, 2 * (feeding.fixed or 1))])
        for each in (graph, *([] if teacher is None else [teacher])):
            each.leave_out(task.left_out)
        graph.eval()
        self.execution = Execution(graph, feeding, probe)
        if not self.execution.outputs:
            raise UnsupportedError(
                "the model has no output to train towards",
                why="none holds real numbers with examples on its first axis and a fixed length",
                fix="compress without training: lc-quant --mode dc",
            )
        target = getattr(task.samples, "targets", None)
        output = (target.output if target is not None else None) or self.execution.outputs[0]
        needed = not isinstance(task.loss, str) or any(term in task.loss for term in ("kl", "l2"))
        needed = needed or task.metric not in ("top1", "top5", "mse")
        # What labels say nothing of is kept as it is, unless the user has chosen what to go by.
        guarded = task.labelled and not task.loss_named and len(self.execution.outputs) > 1
        needed = needed or guarded
        original = self.execution if teacher is None else Execution(teacher, feeding, probe)
        self.teacher = Teacher(original, self.batches, needed=needed, deadline=deadline)
        facts = self.teacher.facts(output if task.labelled else None)
        facts = replace(facts, binary=target.binary if target is not None else None)
        self.facts, self.guarded = facts, guarded
        metric: str | Callable[..., Any] | None = task.metric
        likely: list[str] = []
        if metric is None:
            one = self.teacher.outputs(self.batches.known[:1])
            unlike = class_scores.unranked((teacher or graph).model, task)
            likely = [n for n, v in one.items() if len(one) == 1 and is_class_scores(v) and n not in unlike]
            metric = "agreement" if likely else "relative_l2"
        self._metric, self._output = metric, output if task.labelled else None
        own = task.labelled or task.loss_named or task.loss != "l2"
        scores = classes and not own and self.metric().name == "agreement"
        self.loss = make_loss(CLASSES_LOSS if scores else task.loss, facts, task.labelled)
        known = facts.probabilities | class_scores.shown((teacher or graph).model, likely)
        self.assumed_scores = tuple(name for name in likely if scores and name not in known)
        if guarded:
            self.loss = with_others(self.loss, facts)
        guessed = output in facts.probabilities and not class_scores.weighed((teacher or graph).model, output)
        if guessed and task.labelled and self.loss.needs_labels and task.loss != "mse":
            self.warnings.append(f"output '{output}' holds probabilities; the loss is −log of the label's")

    def metric(self) -> Metric:
        """Return the task's metric, nothing counted yet."""
        return Metric(self._metric, self._output, self.facts.binary)

    @torch.no_grad()
    def evaluate(self, indices: Array, arrays: Mapping[str, Array] | None = None) -> Evaluation:
        """Return loss and metric on these examples, in evaluation mode; ``arrays`` stand in for weights."""
        metric, total, training = self.metric(), 0.0, self._graph.training
        self._graph.eval()
        try:
            with self._holding(arrays or {}):
                for start in range(0, len(indices), _CHUNK):
                    part = indices[start : start + _CHUNK]
                    outputs, labels, teacher = self._look(part)
                    total += float(self.loss(outputs, labels, teacher)) * len(part)
                    metric.add(
                        array_outputs(outputs),
                        None if labels is None else labels.cpu().numpy(),
                        None if teacher is None else array_outputs(teacher),
                    )
        finally:
            self._graph.train(training)
        return Evaluation(total / max(len(indices), 1), metric.value(), len(indices))

    @torch.no_grad()
    def idle_loss(self, indices: Array) -> float:
        """Return the loss of one answer to all of these examples: a share of the original's mean output.

        The best of ``ONE_ANSWER`` shares: of scores that are far apart even the mean is sure of a class.
        Infinite where none is a number. Outputs are not held: they are looked at twice.
        """
        parts = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
        sums: dict[str, torch.Tensor] = {}
        for part in parts:
            for name, values in self.teacher.outputs(part, self.batches.rows(part)).items():
                sums[name] = values.double().sum(0) + sums.get(name, 0.0)
        totals = dict.fromkeys(ONE_ANSWER, 0.0)
        for part in parts:
            rows = self.batches.rows(part)
            answers, labels = self.teacher.outputs(part, rows), self.batches.labels(part, rows)
            for share in ONE_ANSWER:
                same = {
                    n: (share * sums[n] / len(indices)).to(v.dtype).expand_as(v) for n, v in answers.items()
                }
                totals[share] += float(self.loss(same, labels, answers)) * len(part)
        return min((t / len(indices) for t in totals.values() if math.isfinite(t)), default=math.inf)

    def look(self, indices: Array) -> None:
        """Run the graph on these examples as it is, in training mode or not."""
        self.execution.run(self.batches.inputs(indices, self.batches.rows(indices)))

    def _look(
        self, indices: Array
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None, dict[str, torch.Tensor] | None]:
        rows = self.batches.rows(indices)
        outputs = self.execution.run(self.batches.inputs(indices, rows))
        teacher = self.teacher.outputs(indices, rows) if self.teacher.needed else None
        return outputs, self.batches.labels(indices, rows), teacher

    @contextmanager
    def _holding(self, arrays: Mapping[str, Array]) -> Iterator[None]:
        """Let the graph hold other weights for a while."""
        fixed = {name: array for name, array in arrays.items() if name not in self._graph.trainable}
        before = self._graph.arrays(list(fixed))
        self._graph.set_arrays(fixed)  # what is not trained may be part of what the graph computed once
        kept = []
        for name in arrays.keys() - fixed.keys():
            parameter = self._graph.weight(name)
            kept.append((parameter, parameter.data))
            array = np.array(arrays[name], dtype=str(parameter.dtype).removeprefix("torch."))
            parameter.data = torch.from_numpy(array).to(parameter.device).reshape(parameter.shape)
        try:
            yield
        finally:
            for parameter, data in kept:
                parameter.data = data
            self._graph.set_arrays(before)
