"""What the outputs of a quantised model must hold: the gates the user set, decided on held-out examples."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from onnxcompress.core.errors import VerificationError
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine.damage import Computes, Yardstick
from onnxcompress.engine.measures.differences import Difference
from onnxcompress.engine.measures.metrics import metric_of

METRIC_EXAMPLES = 2000
"""Validation examples that the metric is measured on, at most."""

_OUTPUTS = {"max_abs_err": "max_abs", "min_cosine": "cosine", "min_agreement": "top1_agreement"}


class Limits:
    """Limits on the outputs, against the original; empty ones always hold.

    Args:
        reference: computes the original's outputs.
        calls: inputs they are compared on.
        task: labelled examples, for the metric.
        max_error: largest relative ℓ2 change of an output.
        gates: gate name -> limit; those that are not about outputs are not looked at.
        unranked: outputs that are no class scores.
    """

    def __init__(
        self,
        reference: Computes,
        calls: Sequence[Feeds],
        task: Task,
        *,
        max_error: float | None,
        gates: Mapping[str, float],
        unranked: Collection[str] = (),
    ) -> None:
        self._unranked = unranked
        self._reference, self._calls, self._task, self._max_error = reference, calls, task, max_error
        self._outputs = {name: limit for name, limit in gates.items() if name in _OUTPUTS}
        self._drop = gates.get("max_drop") if task.labelled else None
        self._yardstick = None if max_error is None else Yardstick(reference, calls, without=task.decided)
        self._before: float | None = None

    def __bool__(self) -> bool:
        return self._max_error is not None or self._drop is not None or bool(self._outputs)

    @property
    def told(self) -> str:
        """The limits in words."""
        words = [] if self._max_error is None else [f"--max-error {self._max_error:g}"]
        words += [f"--{name.replace('_', '-')} {limit:g}" for name, limit in self._outputs.items()]
        words += [] if self._drop is None else [f"--max-drop {self._drop:g}"]
        return " and ".join(words)

    def hold(self, candidate: Computes) -> bool:
        """Return whether all limits hold for a model."""
        if self._yardstick is not None:
            assert self._max_error is not None
            if not self._yardstick.measure(candidate).relative_l2() <= self._max_error:
                return False
        if self._outputs and not self._outputs_hold(candidate):
            return False
        return self._drop is None or self._dropped(candidate) <= self._drop

    def _outputs_hold(self, candidate: Computes) -> bool:
        differences: dict[str, Difference] = {}
        for feed in self._calls:
            actual = candidate(feed)
            for name, value in self._reference(feed).items():
                axes = frozenset(range(getattr(value, "ndim", 0)))
                unranked = name in self._unranked
                new = Difference(name, same_types=True, open_axes=axes, unranked=unranked)
                difference = differences.setdefault(name, new)
                try:
                    difference.add(value, actual[name])
                except VerificationError:
                    return False
        for difference in differences.values():
            result = difference.result()
            for gate, limit in self._outputs.items():
                measured = getattr(result, _OUTPUTS[gate])
                if result.problem is not None:
                    return False
                holds = measured is None or (
                    measured <= limit if gate.startswith("max") else measured >= limit
                )
                if not holds:
                    return False
        return True

    def _dropped(self, candidate: Computes) -> float:
        if self._before is None:
            self._before = self._metric(self._reference)
        change = self._before - self._metric(candidate)
        return change if self._higher_is_better else -change

    def _metric(self, model: Computes) -> float:
        name = self._task.metric or ("mse" if self._task.loss == "mse" else "top1")
        targets = getattr(self._task.samples, "targets", None)
        score = metric_of(name, targets)
        self._higher_is_better = score.higher_is_better
        feeding = getattr(self._task.samples, "feeding")  # noqa: B009  `Samples` need not have one
        indices = self._task.validation[:METRIC_EXAMPLES]
        for start in range(0, len(indices), 256):
            some = indices[start : start + 256]
            stack = self._task.samples.inputs(some)
            found = feeding.predict(model, stack, 32)
            teacher = feeding.predict(self._reference, stack, 32) if score.needs_teacher else found
            score.add(found, self._task.samples.labels(some), teacher)
        return score.value()
