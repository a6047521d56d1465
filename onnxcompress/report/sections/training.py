"""Training: the data, the goal, and the path of loss and gap along μ."""

from __future__ import annotations

import math
from collections.abc import Callable

from onnxcompress.core.run import Run, Training, TrainingPoint
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Lines, Paragraph, Series, Table

WIDE_RANGE = 30
"""Values that differ by a larger factor are drawn on a logarithmic axis."""


@section(
    "training",
    title="Training",
    order=90,
    detail=True,
    applies=lambda run: any(m.training for m in run.methods),
)
def training(run: Run) -> tuple[Block, ...]:
    """Show on what each method trained, and its path."""
    blocks: list[Block] = []
    for method in run.methods:
        if method.training is not None:
            blocks.append(Paragraph((f"{method.name}: ", _how(method.training))))
            blocks += _plots(method.training)
            if method.training.points:
                blocks.append(_table(method.name, method.training))
    return tuple(blocks)


def _how(t: Training) -> str:
    labels = "with labels" if t.labelled else "without labels (the original model teaches)"
    examples = fmt.plural(t.train_examples, "random example" if t.random_data else "example")
    checked = f"validated on {t.validation_examples:,}"
    passes = float(f"{t.epochs:.3g}")
    epochs = f"{fmt.given(passes).text} epoch{'' if passes == 1 else 's'}" if passes else "no training step"
    metric = f", metric {t.metric}" if t.metric else ""
    goal = f"loss {t.loss}{metric}; {epochs} on {t.device}"
    return f"{examples} {labels}, from {t.data}; {checked}; {goal}. Stopped: {t.stopped}."


def _plots(t: Training) -> tuple[Block, ...]:
    along_mu = len({p.mu for p in t.points if p.mu}) > 1 and all(p.mu is None or p.mu >= 0 for p in t.points)
    label = "μ" if along_mu else "step"

    def series(
        name: str, of: Callable[[TrainingPoint], float | None], *, positive: bool = False
    ) -> Series | None:
        points = []
        for p in t.points:
            x, y = (p.mu if along_mu else p.step), of(p)
            if (
                x is not None
                and y is not None
                and math.isfinite(y)
                and not (along_mu and x <= 0)
                and not (positive and y <= 0)
            ):
                points.append((float(x), float(y)))
        return Series(name, tuple(points)) if len(points) > 1 else None

    charts = (
        (
            "Loss",
            "loss",
            False,
            (
                series("free weights, training", lambda p: p.loss),
                series("compressed, validation", lambda p: p.compressed_loss),
            ),
        ),
        (
            "Gap between free and compressed weights",
            "gap",
            True,
            (series("gap", lambda p: p.gap, positive=True),),
        ),
        (
            f"{t.metric or 'Metric'} of the compressed model, validation",
            t.metric or "metric",
            False,
            (series(t.metric or "metric", lambda p: p.compressed_metric),),
        ),
    )
    plots = []
    for caption, y_label, log, lines in charts:
        drawn = tuple(s for s in lines if s is not None)
        if drawn:
            told = "; ".join(
                f"{s.name} from {fmt.number(s.points[0][1]).text} to {fmt.number(s.points[-1][1]).text}"
                for s in drawn
            )
            alt = f"Line chart of {y_label} along {label}: {told}."
            heights = [y for s in drawn for _, y in s.points]
            wide = min(heights) > 0 and max(heights) > WIDE_RANGE * min(heights)
            plots.append(
                Lines(f"{caption}, along {label}", alt, label, y_label, drawn, along_mu, log or wide)
            )
    return tuple(plots)


def _table(name: str, t: Training) -> Table:
    """Return the path, without columns that the method has nothing for: only LC has a penalty and a gap."""
    columns: tuple[tuple[Column, Callable[[TrainingPoint], Inline | None]], ...] = (
        (Column("Step", numeric=True), lambda p: fmt.count(p.step)),
        (Column("μ", "mu", numeric=True), lambda p: _number(p.mu)),
        (Column("Loss", "loss", numeric=True), lambda p: _number(p.loss)),
        (Column("Loss, compressed", "compressed_loss", numeric=True), lambda p: _number(p.compressed_loss)),
        (
            Column("Metric, compressed", "compressed_metric", numeric=True),
            lambda p: _number(p.compressed_metric, 4),
        ),
        (Column("Gap", "gap", numeric=True), lambda p: None if p.gap is None else fmt.percent(p.gap)),
        (Column("Elapsed", numeric=True), lambda p: fmt.duration(p.elapsed_s)),
    )
    filled = [(c, of) for c, of in columns if any(of(p) is not None for p in t.points)]
    rows = [tuple(of(p) or fmt.missing("—") for _, of in filled) for p in t.points]
    return Table(f"Path of {name}", tuple(c for c, _ in filled), tuple(rows), long=True)


def _number(value: float | None, digits: int = 3) -> Inline | None:
    return None if value is None else fmt.number(value, digits)
