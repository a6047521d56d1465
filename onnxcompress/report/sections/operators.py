"""Operators: where the time goes in each model, place by place: what got faster, what did not."""

from __future__ import annotations

from onnxcompress.core.profile import OperatorProfile, OperatorTime
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Name, Paragraph, Quantity, Table

SHOWN = 40
"""Places that are listed; the others are summed up in one row."""


@section("operators", title="Time by operator", order=72, applies=lambda run: run.operators is not None)
def operators(run: Run) -> tuple[Block, ...]:
    """Show the time by kind of operator, and the places that take most of it."""
    profile = run.operators
    assert profile is not None
    recorded = (
        f"Medians of {fmt.plural(profile.runs, 'recorded inference')}. Recording itself takes time: read the "
        "shares here, and the latency above. A place is a node, with what onnxruntime merged into it."
    )
    return (_kinds(profile), _places(profile), Paragraph((recorded,)))


def _columns(profile: OperatorProfile, first: str) -> tuple[Column, ...]:
    last = (Column("Last / first", numeric=True),) if len(profile.models) > 1 else ()
    return (Column(first), *(Column(name, numeric=True) for name in profile.models), *last)


def _kinds(profile: OperatorProfile) -> Table:
    """Sum the time of each kind of operator."""
    sums: dict[str, list[float]] = {}
    for place in profile.places:
        for index, (operator, time) in enumerate(zip(place.operators, place.times_us, strict=True)):
            if operator is not None and time is not None:
                sums.setdefault(operator, [0.0] * len(profile.models))[index] += time
    ranked = sorted(sums.items(), key=lambda item: -max(item[1]))
    rows = [(Name(kind), *_times(tuple(times), profile)) for kind, times in ranked]
    rows.append(("all", *_times(profile.totals_us, profile)))
    return Table("Time of one inference by kind of operator", _columns(profile, "Operator"), tuple(rows))


def _places(profile: OperatorProfile) -> Table:
    rows = [(Name(place.place), *_cells(place, profile)) for place in profile.places[:SHOWN]]
    rest = profile.places[SHOWN:]
    if rest:
        sums = [sum(p.times_us[i] or 0.0 for p in rest) for i in range(len(profile.models))]
        rows.append((f"{len(rest)} more", *_times(tuple(sums), profile)))
    caption = "Time of one inference by place, the slowest first"
    return Table(caption, _columns(profile, "Place"), tuple(rows), long=True)


def _cells(place: OperatorTime, profile: OperatorProfile) -> tuple[Inline, ...]:
    cells: list[Inline] = []
    for operator, time, total in zip(place.operators, place.times_us, profile.totals_us, strict=True):
        if time is None or operator is None:
            cells.append("—")
        else:
            cells.append(
                f"{fmt.milliseconds(time / 1e3).text} ({fmt.percent(_share(time, total), 2).text}) {operator}"
            )
    if len(profile.models) > 1:
        cells.append(_ratio(place.times_us))
    return tuple(cells)


def _times(times: tuple[float | None, ...], profile: OperatorProfile) -> tuple[Inline, ...]:
    cells: list[Inline] = [
        "—" if not t else f"{fmt.milliseconds(t / 1e3).text} ({fmt.percent(_share(t, total), 2).text})"
        for t, total in zip(times, profile.totals_us, strict=True)
    ]
    if len(profile.models) > 1:
        cells.append(_ratio(times))
    return tuple(cells)


def _share(time: float, total: float) -> float:
    return time / total if total else 0.0


def _ratio(times: tuple[float | None, ...]) -> Quantity:
    first, last = times[0], times[-1]
    return fmt.times(last / first) if first and last else fmt.missing("—")
