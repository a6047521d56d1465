"""Latency: interleaved timing, ratio with its interval, verdict."""

from __future__ import annotations

from onnxcompress.core.run import Benchmark, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import (
    Block,
    Column,
    Distribution,
    Distributions,
    Inline,
    Mark,
    Name,
    Paragraph,
    Table,
)

LEAST_SAVED = 0.01
"""Share of the MACs that must be saved for a word on what it brought."""

UNITS = (("s", 1e-3), ("ms", 1.0), ("µs", 1e3))
"""Units of time, and how many of them a millisecond is."""


@section("latency", title="Latency", order=70, applies=lambda run: run.benchmark is not None)
def latency(run: Run) -> tuple[Block, ...]:
    """Show how long each model takes and whether the difference is one."""
    benchmark = run.benchmark
    assert benchmark is not None
    names = _names(run, benchmark)
    how = Paragraph((_how(benchmark),))
    return (_table(benchmark, names), *_achieved(run, benchmark, names), *_plot(benchmark, names), how)


def _achieved(run: Run, benchmark: Benchmark, names: tuple[str, ...]) -> tuple[Block, ...]:
    """Tell how much of the saved work became saved time, where work was saved."""
    macs = [model.macs for model in run.models]
    ratios = {r.name: r.ratio for r in benchmark.ratios}
    told = []
    if len(macs) == len(names) and macs[0]:
        for name, entry, count in zip(names[1:], benchmark.latencies[1:], macs[1:], strict=True):
            ratio = ratios.get(entry.name)
            if count is None or ratio is None or count > (1 - LEAST_SAVED) * macs[0]:
                continue
            work, time = 1 - count / macs[0], 1 - ratio
            share = fmt.percent(time / work, 2).text if time > 0 else "nothing"
            told.append(
                f"{name}: {fmt.percent(work, 2).text} of the MACs and {fmt.percent(time, 2).text} of the "
                f"time are saved; {share} of the saved work became saved time."
            )
    return (Paragraph((" ".join(told),)),) if told else ()


def _names(run: Run, benchmark: Benchmark) -> tuple[str, ...]:
    if len(benchmark.latencies) == len(run.models):
        return reading.labels(run)
    return tuple(e.name for e in benchmark.latencies)


def _table(benchmark: Benchmark, names: tuple[str, ...]) -> Table:
    compared = bool(benchmark.ratios)
    columns = [
        Column("Model"),
        Column("Median", "latency", numeric=True),
        Column("p90", "quantile", numeric=True),
        Column("p99", "quantile", numeric=True),
    ]
    if compared:
        columns += [
            Column("Ratio", "ratio", numeric=True),
            Column("95 % interval", "interval", numeric=True),
            Column("Verdict"),
        ]
    ratios = {r.name: r for r in benchmark.ratios}
    rows = []
    for index, (name, e) in enumerate(zip(names, benchmark.latencies, strict=True)):
        times = (fmt.milliseconds(t) for t in (e.median_ms, e.p90_ms, e.p99_ms))
        row: list[Inline] = [Name(name) if name == e.name else name, *times]
        ratio = ratios.get(e.name) if index else None
        if compared and ratio is None:
            row += ["", "", "reference" if index == 0 else fmt.NOT_MEASURED]
        elif ratio is not None:
            mark = {"faster": True, "slower": False}.get(ratio.verdict)
            interval = f"{fmt.number(ratio.low).text} to {fmt.number(ratio.high).text}"
            row += [fmt.times(ratio.ratio), interval, Mark(mark, ratio.verdict)]
        rows.append(tuple(row))
    return Table("Time of one inference", tuple(columns), tuple(rows))


def _plot(benchmark: Benchmark, names: tuple[str, ...]) -> tuple[Block, ...]:
    slowest = max((e.median_ms for e in benchmark.latencies), default=1.0)
    unit, factor = next(u for u in UNITS if slowest * u[1] >= 1 or u is UNITS[-1])
    shown = tuple(
        Distribution(name, tuple(factor * s for s in e.samples_ms))
        for name, e in zip(names, benchmark.latencies, strict=True)
        if len(e.samples_ms) > 1
    )
    if not shown:
        return ()
    medians = "; ".join(
        f"{name} median {fmt.milliseconds(e.median_ms).text}"
        for name, e in zip(names, benchmark.latencies, strict=True)
    )
    alt = f"Distribution of the measured times of each model: {medians}."
    return (Distributions("Measured times, each dot one round", alt, unit, shown),)


def _how(benchmark: Benchmark) -> str:
    taken = f"{fmt.plural(benchmark.sessions, 'session')} of {fmt.plural(benchmark.rounds, 'round')}"
    threads = fmt.plural(benchmark.threads, "thread")
    inputs = f" Inputs: {benchmark.inputs}." if benchmark.inputs else ""
    margin = ""
    if benchmark.ratios and benchmark.margin:
        margin = f" A difference within {fmt.percent(benchmark.margin, 2).text} is not called one."
    turns = "models taking turns; " if len(benchmark.latencies) > 1 else ""
    return f"{taken}, {turns}{threads}, {benchmark.provider}, {benchmark.clock}.{inputs}{margin}"
