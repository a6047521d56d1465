"""Metrics: what counts as success, accumulated batch by batch.

===============  ============================================================================
``top1, top5``   fraction of labels among the one, or five, largest scores; ties go to the
                 lower class, NaN is never right
``mse``          mean square of output − label
``agreement``    fraction of examples whose largest score is where the original model has it
``relative_l2``  ‖output − original's‖₂ / ‖original's‖₂, mean over outputs
===============  ============================================================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, UsageError
from onnxcompress.engine.data.labels import Binary, Labels, class_axis, two_classes

Outputs = Mapping[str, Any]

NAMES = ("top1", "top5", "mse", "agreement", "relative_l2")
_KNOWN = ", ".join(NAMES)


class Metric:
    """A metric being measured.

    Args:
        metric: one of ``NAMES``, or a function ``(outputs, labels, teacher outputs) -> number``, the mean
            over the examples given, higher is better.
        output: the output that labels are for; None: the first that they fit.
        binary: what that output is where it is one number for two classes.

    Raises:
        UsageError: the name is not known.
    """

    def __init__(
        self, metric: str | Callable[..., Any], output: str | None = None, binary: Binary | None = None
    ) -> None:
        if isinstance(metric, str) and metric not in NAMES:
            raise UsageError(f"unknown metric '{metric}'", fix=f"known: {_KNOWN}, module.py:function")
        self._metric, self._output, self._binary = metric, output, binary
        self.name = metric if isinstance(metric, str) else getattr(metric, "__name__", "own function")
        self.higher_is_better = metric not in ("mse", "relative_l2")
        self.needs_labels = metric in ("top1", "top5", "mse")
        self.needs_teacher = not self.needs_labels
        self._sums: dict[str, list[float]] = {}

    def add(self, outputs: Outputs, labels: Array | None, teacher: Outputs | None = None) -> None:
        """Count a batch; raises DataError where its labels are missing or fit no output."""
        if self.needs_labels:
            if labels is None:
                raise DataError(f"metric '{self.name}' needs labels", why="the examples have none")
            right = _squares if self.name == "mse" else _ranked
            top = int(self.name[3:]) if self.name != "mse" else 0
            candidates = self._candidates(outputs)
            if self._binary is not None and top:
                candidates = {n: two_classes(v, self._binary) for n, v in candidates.items()}
            self._count("", *right(candidates, np.asarray(labels), top))
            return
        if callable(self._metric):
            count = len(next(iter(outputs.values())))
            self._count("", float(self._metric(outputs, labels, teacher)) * count, count)
            return
        if teacher is None:
            raise DataError(f"metric '{self.name}' needs the original model's outputs")
        add = self._agree if self.name == "agreement" else self._distance
        add(outputs, teacher)

    def value(self) -> float:
        """Return the metric over all that was counted; NaN where nothing was."""
        if not self._sums:
            return math.nan
        ratios = [a / b if b else (0.0 if a == 0 else math.inf) for a, b in self._sums.values()]
        if self.name == "relative_l2":
            ratios = [math.sqrt(r) for r in ratios]
        return sum(ratios) / len(ratios)

    def better(self, new: float, old: float) -> bool:
        """Whether ``new`` is better than ``old``; anything is better than NaN, NaN than nothing."""
        if math.isnan(new) or math.isnan(old):
            return math.isnan(old) and not math.isnan(new)
        return new > old if self.higher_is_better else new < old

    def _count(self, key: str, amount: float, of: float) -> None:
        sums = self._sums.setdefault(key, [0.0, 0.0])
        sums[0] += amount
        sums[1] += of

    def _candidates(self, outputs: Outputs) -> dict[str, Array]:
        name = self._output
        chosen = {name: outputs[name]} if name is not None and name in outputs else outputs
        return {n: v for n, v in chosen.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fV"}

    def _agree(self, outputs: Outputs, teacher: Outputs) -> None:
        scores = [name for name, value in self._candidates(outputs).items() if is_class_scores(value)]
        for name in scores or list(self._candidates(outputs))[:1]:
            mine, theirs = (
                np.asarray(side[name]).reshape(len(side[name]), -1) for side in (outputs, teacher)
            )
            equal = (mine.argmax(axis=1) == theirs.argmax(axis=1)) & ~np.isnan(mine).any(axis=1)
            self._count("", float(equal.sum()), len(equal))

    def _distance(self, outputs: Outputs, teacher: Outputs) -> None:
        for name, value in self._candidates(outputs).items():
            theirs = np.asarray(teacher[name], np.float64)
            difference = np.asarray(value, np.float64) - theirs
            self._count(name, float(np.vdot(difference, difference)), float(np.vdot(theirs, theirs)))


def metric_of(metric: str | Callable[..., Any], targets: Labels | None) -> Metric:
    """Return a metric for these labels, nothing counted yet."""
    return Metric(metric) if targets is None else Metric(metric, targets.output, targets.binary)


def is_class_scores(values: Any) -> bool:
    """Whether an output looks like scores of classes: N C with C ≥ 2, axes of length 1 aside."""
    return len([d for d in values.shape[1:] if d != 1]) == 1


def _ranked(outputs: Mapping[str, Array], labels: Array, top: int) -> tuple[float, float]:
    """Return (labels among the ``top`` largest scores, labels)."""
    if labels.ndim > 1 and math.prod(labels.shape[1:]) == 1:
        labels = labels.reshape(len(labels))
    for values in outputs.values():
        if labels.ndim == 1:
            if not is_class_scores(values):
                continue
            scores = values.reshape(len(values), -1)
        else:
            axis = class_axis(labels.shape[1:], values.shape[1:])
            if axis is None:
                continue
            scores = np.moveaxis(values, axis + 1, -1)
        scores = scores.astype(np.float64, copy=False)
        own = np.take_along_axis(scores, labels[..., None].astype(np.int64), axis=-1)
        before = np.arange(scores.shape[-1]) < labels[..., None]
        rank = ((scores > own) | ((scores == own) & before)).sum(axis=-1)
        right = (rank < top) & ~np.isnan(own[..., 0])
        return float(right.sum()), float(right.size)
    raise _misfit(outputs, labels)


def _squares(outputs: Mapping[str, Array], labels: Array, top: int) -> tuple[float, float]:
    """Return (sum of squared differences, their number)."""
    for values in outputs.values():
        if values.size == labels.size and len(values) == len(labels):
            difference = values.reshape(labels.shape).astype(np.float64) - labels
            return float(np.vdot(difference, difference)), float(difference.size)
    raise _misfit(outputs, labels)


def _misfit(outputs: Mapping[str, Array], labels: Array) -> DataError:
    found = ", ".join(f"'{name}' {value.shape}" for name, value in outputs.items()) or "none"
    return DataError("the labels fit no output", why=f"labels {labels.shape}, outputs {found}")


class OneAnswer:
    """What a metric would be if all examples got the same answer: the most frequent class, the labels' mean.

    Args:
        metric: as for :class:`Metric`; nothing is known of others than ``top1`` and ``mse``.
    """

    def __init__(self, metric: str | Callable[..., Any]) -> None:
        self._metric = metric
        self._counts: Counter[int] = Counter()
        self._count = 0
        self._total: Any = 0.0
        self._squares: Any = 0.0

    def add(self, labels: Array | None) -> None:
        """Count a batch of labels."""
        if labels is None or not isinstance(self._metric, str):
            return
        if self._metric == "top1":
            classes, counts = np.unique(labels, return_counts=True)
            self._counts.update(dict(zip(classes.tolist(), counts.tolist(), strict=True)))
        elif self._metric == "mse":
            wide = labels.astype(np.float64)
            self._count += len(wide)
            self._total = self._total + wide.sum(0)
            self._squares = self._squares + np.square(wide).sum(0)

    def value(self) -> float | None:
        """Return the metric over all that was counted; None where it is not known."""
        if self._counts:
            return max(self._counts.values()) / self._counts.total()
        if not self._count:
            return None
        return float(np.mean(self._squares / self._count - np.square(self._total / self._count)))
