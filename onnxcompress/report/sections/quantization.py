"""Quantisation: which way of computing with 8 bits pays on this machine, and which layers stay float."""

from __future__ import annotations

from onnxcompress.core.quantization import QuantizationFacts, QuantizedWay
from onnxcompress.core.run import Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Column, Inline, Mark, Name, Paragraph, Quantity, Strong, Table

NAMES = {
    "static": "activations calibrated",
    "mixed": "convolutions static, products dynamic",
    "dynamic": "products only, activations measured at each run",
    "float": "the graph cleaned up, nothing quantised",
}


@section("quantization", title="8-bit arithmetic", order=47, applies=lambda run: bool(run.quantizations))
def quantization(run: Run) -> tuple[Block, ...]:
    """Show what each way costs and gains, and what was done with each layer."""
    blocks: list[Block] = []
    for facts in run.quantizations:
        blocks += [_ways(facts), Paragraph((_how(facts) + _shares(run, facts),)), _layers(facts)]
    return tuple(blocks)


def _ways(facts: QuantizationFacts) -> Table:
    columns = (
        Column("Way"),
        Column("Layers", numeric=True),
        Column("Output error", "relative_l2", numeric=True),
        Column("Latency", "ratio", numeric=True),
        Column("95 % interval", "interval", numeric=True),
        Column("Verdict"),
    )
    return Table("Ways to compute that were tried", columns, tuple(_row(way) for way in facts.ways))


def _row(way: QuantizedWay) -> tuple[Inline, ...]:
    interval: Inline = fmt.missing()
    verdict: Inline = ""
    if way.low is not None and way.high is not None:
        interval = f"{fmt.number(way.low).text} to {fmt.number(way.high).text}"
        passed = {"faster": True, "slower": False}.get(way.verdict or "")
        words = (
            "slower: do not ship" if way.verdict == "slower" and way.name != "float" else way.verdict or ""
        )
        verdict = Mark(passed, words)
    return (
        Strong(way.name) if way.chosen else way.name,
        fmt.count(way.layers),
        fmt.percent(way.relative_l2),
        fmt.times(way.ratio),
        interval,
        verdict,
    )


def _how(facts: QuantizationFacts) -> str:
    floats = sum(layer.way == "float" for layer in facts.layers)
    ways = "; ".join(f"{way.name}: {NAMES[way.name]}" for way in facts.ways if way.name in NAMES)
    taken = next((way.name for way in facts.ways if way.chosen), None)
    told = f"{ways}. Latency is divided by that before. " if ways else ""
    told += f"Taken: {taken}. " if taken else ""
    told += (
        f"{fmt.plural(len(facts.layers) - floats, 'layer')} of {len(facts.layers)} compute with integers. "
    )
    if facts.examples:
        kind = "random inputs" if facts.random_data else "training examples"
        how = {"minmax": "all values seen", "mse": "clipped for the least mean square error"}
        found = how.get(facts.calibration, facts.calibration)
        told += f"Ranges of activations: {found}, on {facts.examples} {kind}. "
    told += f"Limit: {facts.limit}." if facts.limit else "No limit was set on the outputs."
    return told


def _shares(run: Run, facts: QuantizationFacts) -> str:
    """Tell what the steps before brought and what 8 bits did, where both were measured."""
    chosen = next((way for way in facts.ways if way.chosen and way.ratio), None)
    ratios = run.benchmark.ratios if run.benchmark is not None else ()
    before = [method.name for method in run.methods if method.name not in ("int8", "fold")]
    if chosen is None or chosen.ratio is None or not ratios or not before:
        return ""
    whole = ratios[0].ratio
    if chosen.name == "float":
        return (
            f" Latency: {', '.join(before)} {fmt.times(whole).text} that of the original; 8 bits add nothing."
        )
    return (
        f" Latency by step: {', '.join(before)} {fmt.times(whole / chosen.ratio).text}, then 8 bits "
        f"{fmt.times(chosen.ratio).text}; together {fmt.times(whole).text} that of the original."
    )


def _layers(facts: QuantizationFacts) -> Table:
    columns = (
        Column("Node"),
        Column("Operator"),
        Column("Computes"),
        Column("Damage alone", "relative_l2", numeric=True),
        Column("Why"),
    )
    rows = tuple((Name(la.node), la.op_type, la.way, _damage(la.damage), la.why or "") for la in facts.layers)
    return Table("Every layer", columns, rows, long=True)


def _damage(value: float | None) -> Quantity:
    return fmt.missing("—") if value is None else fmt.percent(value)
