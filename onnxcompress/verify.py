"""Does the written file compute what it should: against the original, against torch, and on labelled data."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxcompress.core.errors import VerificationError
from onnxcompress.core.run import Accuracy, Comparison, OutputDifference
from onnxcompress.core.task import Feeds, Task
from onnxcompress.engine import runtime
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.measures.differences import Difference
from onnxcompress.engine.measures.metrics import OneAnswer, metric_of

LIFELESS = 0.02
"""An output that varies over examples by less than this share of the original's has lost what it said."""

LOST, LOST_EXAMPLES = 0.5, 10
"""So much of its variance over so many examples an output may lose before it is told of."""

RANKS_ALIKE = 0.9
"""Unless its largest score is at the same place for so many of the examples."""

Outputs = Mapping[str, Any]
"""Output name -> array, list (ONNX sequence) or dict (ONNX map)."""

Computes = Callable[[Feeds], Outputs]
"""Computes a model's outputs; the first axis of inputs and outputs counts examples where there is one."""


def compare(
    reference: Path | bytes | Computes,
    candidate: Path | bytes | Computes,
    feeds: Iterable[Feeds],
    *,
    inputs: str,
    random_inputs: bool,
    examples: int | None = None,
    tolerance: float | None = None,
    threads: int = 1,
    same_types: bool = True,
    decided: Collection[str] = (),
    unranked: Collection[str] = (),
    allowed: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare outputs with those of the original on the same inputs; memory does not grow with their number.

    Args:
        reference: the original: a file, a serialised model, or what computes its outputs.
        candidate: the same of the model in question.
        feeds: inputs, one dict a call; read once.
        inputs: where they come from, for the report.
        random_inputs: they are random numbers, which the report says loudly.
        examples: number of examples in ``feeds``; None: one a call.
        tolerance: largest relative ℓ2 difference of an output that passes; None: nothing is promised, only
            a number that turned into NaN or infinity fails.
        threads: onnxruntime's threads inside an operator.
        same_types: outputs must have the same types; False between two implementations.
        decided: outputs that are decisions, or selected by some, made of other outputs: rounding may turn
            them around, so that they may differ, also in length, whatever the tolerance.
        unranked: outputs that are no class scores, though they may look so.
        allowed: output name -> another tolerance for this one.

    Where the reference is a file, an output's length along an axis that its file leaves open and no input
    shares may differ (the boxes that a detector keeps): that is a difference, not an error.

    Raises:
        VerificationError: outputs missing, or of another type or shape than the original's.
        UnsupportedError: onnxruntime does not run one of the models.
    """
    expected_of, open_axes = _computes(reference, threads)
    actual_of, written_axes = _computes(candidate, threads)
    differences: dict[str, Difference] = {}
    calls = 0
    for feed in feeds:
        expected, actual = expected_of(feed), actual_of(feed)
        if set(expected) != set(actual):
            raise VerificationError(
                "the outputs have other names than the original's",
                why=f"{_names(actual)} instead of {_names(expected)}",
            )
        for name, value in expected.items():
            if name not in differences:
                axes = open_axes.get(name)
                if axes is None and name in decided:
                    axes = written_axes.get(name)
                differences[name] = Difference(
                    name,
                    same_types=same_types,
                    open_axes=axes,
                    decided=name in decided,
                    unranked=name in unranked,
                )
            differences[name].add(value, actual[name])
        calls += 1
    outputs = tuple(d.result() for d in differences.values())
    passed: bool | None = None
    if any(d.broken for d in differences.values()):
        passed = False
    elif tolerance is not None and outputs:
        limits = (
            dict.fromkeys(differences, tolerance) | dict.fromkeys(decided, math.inf) | dict(allowed or {})
        )
        passed = all(limits[n] == math.inf or d.within(limits[n]) for n, d in differences.items())
    return Comparison(
        reference="original",
        inputs=inputs,
        random_inputs=random_inputs,
        examples=calls if examples is None else examples,
        outputs=outputs,
        tolerance=tolerance,
        passed=passed,
    )


def against_torch(
    believed: Computes,
    written: Path | bytes,
    feeds: Iterable[Feeds],
    *,
    inputs: str,
    random_inputs: bool,
    tolerance: float,
    examples: int | None = None,
    threads: int = 1,
    decided: Collection[str] = (),
    unranked: Collection[str] = (),
    allowed: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare the written file with the model the method worked on, which must agree to ``tolerance``.

    Two implementations of the same float32 network differ by rounding alone, about 1e-6 relative ℓ2; how much
    more depends on depth, on float16, and on operators that round inside (quantised models). The floor can
    be measured: ``compare`` the *original* file with the same torch model before it was changed, and allow
    ``max(1e-4, 4 * worst(that))``.

    Args:
        believed: the torch model's outputs, as NumPy arrays.
        written: the file.
        feeds: as for ``compare``, with ``inputs``, ``random_inputs``, ``examples``, ``threads`` and
            ``decided``.
        inputs: where they come from.
        random_inputs: they are random numbers.
        tolerance: largest relative ℓ2 difference that passes.
        examples: number of examples in ``feeds``.
        threads: onnxruntime's threads inside an operator.
        decided: outputs that are made of others.
        unranked: outputs that are no class scores.
        allowed: as for ``compare``.

    Raises:
        VerificationError: outputs missing, or of another type or shape. A difference beyond the tolerance
            does not raise: see ``require``.
    """
    comparison = compare(
        believed,
        written,
        feeds,
        inputs=inputs,
        random_inputs=random_inputs,
        examples=examples,
        tolerance=tolerance,
        threads=threads,
        same_types=False,
        decided=decided,
        unranked=unranked,
        allowed=allowed,
    )
    return replace(comparison, reference="torch")


def lifeless(comparison: Comparison) -> tuple[str, ...]:
    """Return a sentence for each output that hardly depends on the input, though the original's does.

    Such a network answers everything alike, which errors and accuracies alone do not tell. Scores that got
    smaller and still rank alike are no such answers.
    """
    whose = "" if comparison.candidate is None else f" of {comparison.candidate}"
    told = []
    for o in comparison.outputs:
        if o.spread is None or o.spread >= LIFELESS:
            continue
        if o.spread > 0 and o.top1_agreement is not None and o.top1_agreement >= RANKS_ALIKE:
            continue
        much = f"varies {100 * o.spread:.2g} % as much as" if o.spread > 0 else "does not vary, as opposed to"
        told.append(
            f"output {o.name!r}{whose} hardly depends on the input any more: over {comparison.examples} "
            f"examples it {much} the original's"
        )
    return tuple(told)


def forgotten(comparison: Comparison, *, labelled: str | None = None) -> tuple[str, ...]:
    """Return a sentence for each output that has lost most of what the original's says of its input.

    Relative errors do not tell where most of an output is the same for all inputs. Random inputs prove
    nothing; outputs that answer everything alike are told of by ``lifeless``.

    Args:
        comparison: with the original.
        labelled: the output that was trained towards labels, away from the original's perhaps.
    """
    whose = "" if comparison.candidate is None else f" of {comparison.candidate}"
    if comparison.random_inputs or comparison.examples < LOST_EXAMPLES:
        return ()
    return tuple(
        f"output {o.name!r}{whose} has lost what it said of the input: over {comparison.examples} examples "
        f"its mean square error is {o.lost:.2g} of the variance of the original's"
        for o in comparison.outputs
        if o.lost is not None
        and o.lost >= LOST
        and o.name != labelled
        and (o.spread is None or o.spread >= LIFELESS)
        and (o.top1_agreement is None or o.top1_agreement < RANKS_ALIKE)
    )


def worst(comparison: Comparison, without: Collection[str] = ()) -> float:
    """Return the largest relative ℓ2 difference of all other outputs, absolute where the reference is zero.

    Of decisions it is the share that differs.
    """
    return max((_size(o) for o in comparison.outputs if o.name not in without), default=0.0)


def _size(output: OutputDifference) -> float:
    if output.relative_l2 is not None:
        return output.relative_l2
    if output.max_abs is not None:
        return output.max_abs
    return 0.0 if output.top1_agreement is None else 1 - output.top1_agreement


def require(comparison: Comparison) -> None:
    """Raise VerificationError, naming the outputs, where a comparison did not pass."""
    if comparison.passed is not False:
        return
    told = []
    for o in comparison.outputs:
        if o.problem is not None:
            told.append(f"output {o.name!r} {o.problem}")
        elif o.relative_l2 is not None:
            told.append(f"output {o.name!r} differs by {o.relative_l2:.2g} relative l2")
        elif not o.equal:
            told.append(f"output {o.name!r} is not equal")
    limit = "" if comparison.tolerance is None else f" (allowed {comparison.tolerance:.2g})"
    against = {"torch": "what the method decided"}.get(comparison.reference, f"the {comparison.reference}")
    raise VerificationError(
        f"the written model does not compute {against}",
        why="; ".join(told) + limit,
        fix="nothing was written; please report this model",
    )


def accuracy(
    before: Path | bytes | Computes,
    after: Path | bytes | Computes,
    task: Task,
    *,
    batch: int = 32,
    threads: int = 1,
) -> Accuracy | None:
    """Measure the task's metric of both models on its test split, on validation examples where it has none.

    Args:
        before: the original, as for ``compare``; also the teacher of metrics that compare with one.
        after: the compressed model.
        task: examples, labels and metric.
        batch: examples a call takes, where the model leaves that open.
        threads: onnxruntime's threads inside an operator.

    Returns:
        None where the data has no labels and no metric was asked for.

    Raises:
        DataError: the labels fit no output.
    """
    metric = task.metric
    if metric is None:
        if not task.labelled:
            return None
        metric = "mse" if task.loss == "mse" else "top1"
    split, indices = task.measured
    targets = getattr(task.samples, "targets", None)
    scores = metric_of(metric, targets), metric_of(metric, targets)
    one_answer = OneAnswer(metric)
    models = [_computes(model, threads)[0] for model in (before, after)]
    feeding: Feeding = getattr(task.samples, "feeding", Feeding(False, None))
    for start in range(0, len(indices), 8 * batch):
        some = indices[start : start + 8 * batch]
        stack = task.samples.inputs(some)
        labels = task.samples.labels(some) if task.labelled else None
        old, new = (feeding.predict(model, stack, batch) for model in models)
        scores[0].add(old, labels, old)
        scores[1].add(new, labels, old)
        one_answer.add(labels)
    return Accuracy(
        metric=scores[0].name,
        higher_is_better=scores[0].higher_is_better,
        before=scores[0].value(),
        after=scores[1].value(),
        split=split,
        examples=len(indices),
        trivial=one_answer.value(),
    )


def _computes(model: Path | bytes | Computes, threads: int) -> tuple[Computes, Mapping[str, frozenset[int]]]:
    """Return what computes a model's outputs, and by output the axes whose length depends on values."""
    if callable(model):
        return model, {}
    session = runtime.open_session(model, threads=threads)
    names = [info.name for info in session.inputs]
    shared = {d for info in session.inputs for d in info.shape if isinstance(d, str)}
    open_axes = {
        info.name: frozenset(
            i for i, d in enumerate(info.shape) if d is None or (isinstance(d, str) and d not in shared)
        )
        for info in session.outputs
    }

    def run(feeds: Feeds) -> Outputs:
        missing = [name for name in names if name not in feeds]
        if missing:
            raise VerificationError(
                "the inputs have other names than the original's",
                why=f"{_names(missing)} instead of {_names(list(feeds))}",
                fix="rename the inputs of one of the models",
            )
        return session.run({name: feeds[name] for name in names})

    return run, open_axes


def _names(outputs: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in outputs) or "none"
