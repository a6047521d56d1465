"""Verdict: what was done, and what it did to size, outputs, accuracy and speed, in words."""

from __future__ import annotations

import math

from onnxcompress.core.run import Accuracy, LatencyRatio, Run
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _channels as channels
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Figure, Figures, Inline, Paragraph, Quantity, Strong, Term

FAR_ERROR, FAR_AGREEMENT = 0.5, 0.9
"""Outputs are marked from here on: differing by half their size, or in the class of a tenth of examples."""


@section("summary", title="Summary", order=10, applies=lambda run: True)
def summary(run: Run) -> tuple[Block, ...]:
    """Tell the whole run in a few numbers and sentences."""
    figures = _of_pair(run) if reading.pair(run) else _of_one(run)
    sentences = [
        s for s in (_done(run), _cut(run), _size(run), _outputs(run), _accuracy(run), _speed(run)) if s
    ]
    parts: list[Inline] = []
    for sentence in sentences:
        parts += [*([" "] if parts else []), *sentence]
    blocks: list[Block] = [Figures(figures)] if figures else []
    return (*blocks, Paragraph(tuple(parts))) if parts else tuple(blocks)


def _of_one(run: Run) -> tuple[Figure, ...]:
    if not run.models:
        return ()
    if len(run.models) > 1:
        return _of_many(run)
    model, latency = run.models[0], reading.latency_of(run, 0)
    figures = [
        Figure("File size", fmt.size(model.size_bytes), f"gzip {fmt.size(model.gzip_bytes).text}", "size"),
        Figure("Parameters", fmt.large(model.parameters, ""), fmt.plural(model.nodes, "node"), "parameters"),
        Figure(
            "Bits per weight", fmt.number(model.bits_per_weight, reason="no weights"), "", "bits_per_weight"
        ),
        Figure("MACs", fmt.large(model.macs, ""), "for one inference", "macs"),
    ]
    if latency:
        detail = f"p99 {fmt.milliseconds(latency.p99_ms).text}"
        figures.append(Figure("Latency", fmt.milliseconds(latency.median_ms), detail, "latency"))
    return tuple(figures)


def _of_many(run: Run) -> tuple[Figure, ...]:
    names = reading.labels(run)
    smallest = min(range(len(run.models)), key=lambda i: run.models[i].size_bytes)
    size = fmt.size(run.models[smallest].size_bytes)
    figures = [
        Figure("Models", fmt.count(len(run.models)), f"the first, {names[0]}, is the reference"),
        Figure("Smallest file", size, names[smallest], "size"),
    ]
    if run.benchmark and run.benchmark.latencies:
        fastest = min(run.benchmark.latencies, key=lambda e: e.median_ms)
        figures.append(Figure("Lowest median", fmt.milliseconds(fastest.median_ms), fastest.name, "latency"))
    return tuple(figures)


def _of_pair(run: Run) -> tuple[Figure, ...]:
    models = reading.pair(run)
    assert models is not None
    before, after = models
    share = after.size_bytes / before.size_bytes if before.size_bytes else None
    figures = [
        Figure(
            "File size",
            fmt.size(after.size_bytes),
            f"{fmt.percent(share).text} of {fmt.size(before.size_bytes).text}",
            "size",
            "good" if after.size_bytes < before.size_bytes else "bad",
        )
    ]
    figures += _work_figure(run)
    original = reading.against(run, "original")
    if original is None:
        figures.append(Figure("Output error", fmt.missing(), "outputs were not compared", "relative_l2"))
    else:
        inputs = "random input" if original.random_inputs else "input"
        error = reading.worst_error(original)
        value = Quantity("broken") if reading.broken(original) else _equal_or(original, error)
        agreement = reading.least_agreement(original)
        told = "worst output" if agreement is None else f"top-1 agreement {fmt.agreement(agreement).text}"
        detail = f"{told}, {fmt.plural(original.examples, inputs)}"
        # Where accuracy was measured it says more than outputs do.
        apart = error is not None and error >= FAR_ERROR
        far = run.accuracy is None and (apart or (agreement is not None and agreement < FAR_AGREEMENT))
        bad = far or bool(reading.broken(original)) or original.passed is False
        figures.append(Figure("Output error", value, detail, "relative_l2", "bad" if bad else "plain"))
    figures += _accuracy_figure(run.accuracy)
    ratio = reading.ratio(run)
    if ratio is None:
        figures.append(Figure("Latency", fmt.missing(), "", "latency"))
    else:
        tone = {"faster": "good", "slower": "bad"}.get(ratio.verdict, "plain")
        interval = f"95 % interval {fmt.number(ratio.low).text} to {fmt.number(ratio.high).text}"
        figures.append(
            Figure("Latency", fmt.times(ratio.ratio), f"{ratio.verdict}; {interval}", "ratio", tone)
        )
    return tuple(figures)


def _work_figure(run: Run) -> list[Figure]:
    if not run.cuts or not run.cuts[0].macs_before:
        return []
    before, after = run.cuts[0].macs_before, run.cuts[-1].macs_after
    detail = f"{fmt.percent(after / before).text} of {fmt.large(before, '').text}"
    return [Figure("MACs", fmt.large(after, ""), detail, "macs", "good" if after < before else "plain")]


def _equal_or(comparison: object, error: float | None) -> Quantity:
    outputs = getattr(comparison, "outputs", ())
    if outputs and all(o.equal for o in outputs):
        return Quantity("equal")
    return fmt.percent(error, reason="no number")


def _accuracy_figure(accuracy: Accuracy | None) -> list[Figure]:
    if accuracy is None:
        return [Figure("Accuracy", fmt.missing(), "no labelled data", "metric")]
    worse = (accuracy.after < accuracy.before) == accuracy.higher_is_better
    tone = "plain" if _within_noise(accuracy) else ("bad" if worse else "good")
    detail = f"before {reading.metric(accuracy, accuracy.before).text} ({reading.change(accuracy).text})"
    return [Figure(accuracy.metric, reading.metric(accuracy, accuracy.after), detail, "metric", tone)]


def _within_noise(accuracy: Accuracy) -> bool:
    """Return whether the change is below twice the standard error of a fraction of so many examples."""
    p, change = accuracy.before, abs(accuracy.after - accuracy.before)
    fraction = 0 <= p <= 1 and accuracy.examples > 0
    return change <= (2 * math.sqrt(p * (1 - p) / accuracy.examples) if fraction else 0)


def _done(run: Run) -> tuple[Inline, ...]:
    if not run.models:
        return ()
    first = reading.named(run.models[0])
    if run.kind == "compress":
        methods = ", then ".join(m.name for m in run.methods)
        count = len(reading.compressed(run))
        told = f" in {fmt.plural(count, 'weight')}" if count else ""
        return (first, " was compressed", *((" with ", Strong(methods)) if methods else ()), f"{told}.")
    if len(run.models) == 2:
        return (reading.named(run.models[1]), " is held against ", first, ".")
    if run.kind == "inspect":
        model = run.models[0]
        nodes, parameters = fmt.plural(model.nodes, "node"), fmt.plural(model.parameters, "parameter")
        return (first, f" has {nodes} of opset {model.opset} and {parameters}.")
    if len(run.models) > 2:
        timed = " were timed in turn" if run.benchmark else " are compared"
        return (f"{len(run.models)} models{timed}; ", first, " is the reference.")
    return ()


def _cut(run: Run) -> tuple[Inline, ...]:
    """Tell how much of the network is left."""
    if not run.cuts:
        return ()
    found = channels.cut_groups(run.cuts).values()
    before, after = run.cuts[0], run.cuts[-1]
    work = ""
    if before.macs_before:
        share = fmt.percent(after.macs_after / before.macs_before).text
        work = f", which leaves {share} of the multiply-accumulates"
    kept, of = sum(k.kept for k in found), sum(k.of for k in found)
    groups = fmt.plural(len(found), "group")
    return (f"{kept:,} of {of:,} ", Term("channels", "channel_group"), f" stay in {groups}{work}.")


def _size(run: Run) -> tuple[Inline, ...]:
    models = reading.pair(run)
    if models is None or run.kind == "inspect" or not models[0].size_bytes or not models[1].size_bytes:
        return ()
    before, after = models[0].size_bytes, models[1].size_bytes
    sizes = f"{fmt.size(before).text} became {fmt.size(after).text}"
    if 0.995 < before / after < 1.005 and before != after:
        change = f"{abs(before - after):,} bytes {'fewer' if after < before else 'more'}"
        return ("The file has nearly the same size: ", Strong(change), f" than {fmt.size(before).text}.")
    if after < before:
        return ("The file is ", Strong(f"{fmt.digits(before / after)} times smaller"), f": {sizes}.")
    if after > before:
        return ("The file ", Strong(f"grew by {fmt.percent(after / before - 1).text}"), f": {sizes}.")
    return ("The file has the same size.",)


def _outputs(run: Run) -> tuple[Inline, ...]:
    comparison = reading.against(run, "original")
    if comparison is None:
        return ()
    what = "seeded random input" if comparison.random_inputs else "input"
    on = f" on {fmt.plural(comparison.examples, what)}"
    if reading.broken(comparison):
        return (Strong("Outputs are broken"), f"{on}: see Outputs.")
    if comparison.outputs and all(o.equal for o in comparison.outputs):
        return (f"Outputs are equal{on}.",)
    agreement = reading.least_agreement(comparison)
    same = "" if agreement is None else f"; the top class is the same for {fmt.agreement(agreement).text}"
    error = fmt.percent(reading.worst_error(comparison), reason="an amount that is not a number")
    return (
        f"Outputs differ from the original's by at most {error.text} (",
        Term("relative error", "relative_l2"),
        f"){on}{same}.",
    )


def _accuracy(run: Run) -> tuple[Inline, ...]:
    accuracy = run.accuracy
    if accuracy is None:
        return ("Accuracy was not measured: that needs labelled data.",) if run.kind == "compress" else ()
    before, after = (
        reading.metric(accuracy, accuracy.before).text,
        reading.metric(accuracy, accuracy.after).text,
    )
    where = f" on {fmt.plural(accuracy.examples, 'example')} ({reading.split(accuracy)})."
    return (f"The metric {accuracy.metric} went from {before} to ", Strong(after), where)


def _speed(run: Run) -> tuple[Inline, ...]:
    ratio = reading.ratio(run)
    if ratio is None:
        return ("Latency was not measured.",) if reading.pair(run) and run.benchmark is None else ()
    return _speed_words(ratio, reading.in_codebook(run) and _smaller(run))


def _speed_words(ratio: LatencyRatio, smaller_codebook: bool) -> tuple[Inline, ...]:
    if ratio.verdict == "faster":
        return ("It is ", Strong(f"{fmt.digits(1 / ratio.ratio)} times as fast"), ".")
    if ratio.verdict == "slower":
        return ("It is ", Strong(f"slower: {fmt.digits(ratio.ratio)} times the time"), " of the original.")
    if smaller_codebook:
        return (Strong(reading.SAME_SPEED), f" ({ratio.verdict[:1].upper()}{ratio.verdict[1:]} in latency.)")
    return (f"Latency: {ratio.verdict}.",)


def _smaller(run: Run) -> bool:
    models = reading.pair(run)
    return models is not None and models[1].size_bytes < models[0].size_bytes
