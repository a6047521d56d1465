"""Questions that several sections ask of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import PurePath

from onnxcompress.core.refusal import Refusal
from onnxcompress.core.run import (
    GIVEN,
    Accuracy,
    Comparison,
    Latency,
    LatencyRatio,
    ModelFacts,
    Run,
    WeightFacts,
)
from onnxcompress.report import format as fmt
from onnxcompress.report.tree import Column, Name, Names, Quantity, Table

SAME_SPEED = "Smaller file; same speed: codebook weights are decoded once when the model is loaded."

FRACTIONS = ("top1", "top5", "top-1", "top-5", "accuracy", "agreement", "error")
"""Metrics whose names start like this are fractions and shown as percentages."""


def short_name(model: ModelFacts) -> str:
    """Return the file name without its folder."""
    return PurePath(model.name).name or model.name


def labels(run: Run) -> tuple[str, ...]:
    """Return what the models are called in tables: by their part in the run, or by file name."""
    if run.kind == "compress" and len(run.models) == 2:
        return "Original", "Compressed"
    names = tuple(short_name(m) for m in run.models)
    return names if len(set(names)) == len(names) else tuple(m.name for m in run.models)


def pair(run: Run) -> tuple[ModelFacts, ModelFacts] | None:
    """Return the two models that are compared with each other, None where there are not two."""
    return (run.models[0], run.models[1]) if len(run.models) == 2 else None


def against(run: Run, reference: str) -> Comparison | None:
    """Return the comparison of outputs with this reference; None where several models were compared."""
    found = [c for c in run.comparisons if c.reference == reference]
    return found[0] if len(found) == 1 else None


def worst_error(comparison: Comparison) -> float | None:
    """Return the largest relative ℓ2 difference over the outputs; None where no output has one."""
    errors = [o.relative_l2 for o in comparison.outputs if o.relative_l2 is not None]
    return math.inf if any(math.isnan(e) for e in errors) else max(errors, default=None)


def least_agreement(comparison: Comparison) -> float | None:
    """Return the smallest top-1 agreement over the outputs; None where no output holds class scores."""
    return min((o.top1_agreement for o in comparison.outputs if o.top1_agreement is not None), default=None)


def broken(comparison: Comparison) -> tuple[str, ...]:
    """Return names of outputs whose difference could not be expressed as a number."""
    return tuple(o.name for o in comparison.outputs if o.problem is not None)


def latency_of(run: Run, index: int) -> Latency | None:
    """Return the latency of model ``index``: by its name, else by its place."""
    if run.benchmark is None:
        return None
    latencies = run.benchmark.latencies
    named = [e for e in latencies if e.name == run.models[index].name]
    if len(named) == 1:
        return named[0]
    return latencies[index] if len(latencies) == len(run.models) else None


def ratio(run: Run) -> LatencyRatio | None:
    """Return the latency ratio of the second model where exactly two were timed."""
    return run.benchmark.ratios[0] if run.benchmark and len(run.benchmark.ratios) == 1 else None


def elements(weight: WeightFacts) -> int:
    """Return the number of elements of a weight that are stored."""
    return math.prod(weight.shape if weight.shape_after is None else weight.shape_after)


def compressed(run: Run) -> tuple[WeightFacts, ...]:
    """Return the weights that are not stored densely."""
    return tuple(w for w in run.weights if w.encoding != "dense")


def in_codebook(run: Run) -> bool:
    """Return whether a weight is stored as codes into a table of values."""
    return any(w.entries is not None or "codebook" in w.encoding for w in run.weights)


def trained(run: Run) -> bool:
    """Return whether a method adjusted the weights to data."""
    return any(m.training is not None and m.training.epochs > 0 for m in run.methods)


def reasons(refusals: Iterable[Refusal], caption: str, subject: str) -> Table:
    """Return refusals as a table with one row a reason, in order of first appearance."""
    grouped: dict[str, list[str]] = {}
    for refusal in refusals:
        grouped.setdefault(refusal.why, []).append(refusal.where)
    rows = tuple((Names(tuple(where)), Quantity(f"{len(where):,}"), why) for why, where in grouped.items())
    return Table(
        caption, (Column(subject), Column("Count", numeric=True), Column("Reason")), rows, long=len(rows) > 8
    )


def named(model: ModelFacts) -> Name:
    """Return the model's file name as it is set in text."""
    return Name(short_name(model))


def metric(accuracy: Accuracy, value: float) -> Quantity:
    """Return a value of the metric: as a percentage where it is a fraction."""
    fraction = accuracy.metric.lower().startswith(FRACTIONS) and max(accuracy.before, accuracy.after) <= 1
    return fmt.percent(value, 4) if fraction else fmt.number(value, 4)


def split(accuracy: Accuracy) -> str:
    """Return which examples an accuracy was measured on, in words."""
    return "all given" if accuracy.split == GIVEN else accuracy.split


def change(accuracy: Accuracy) -> Quantity:
    """Return after minus before, signed; percentages change by points."""
    difference = accuracy.after - accuracy.before
    fraction = metric(accuracy, accuracy.after).text.endswith("%")
    value = fmt.digits(abs(100 * difference if fraction else difference), 2)
    sign = "±" if value == "0" else ("+" if difference > 0 else "−")
    return Quantity(f"{sign}{value}{' points' if fraction else ''}", repr(difference))
