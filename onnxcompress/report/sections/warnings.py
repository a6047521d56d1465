"""What the reader must know before believing the numbers."""

from __future__ import annotations

from onnxcompress.core.run import Run, WeightFacts
from onnxcompress.report import format as fmt
from onnxcompress.report.sections import _reading as reading
from onnxcompress.report.sections._base import section
from onnxcompress.report.tree import Block, Callout, Inline, Name

LOW_BITS_ENTRIES = 8
"""A codebook of at most so many values (3 bits) found without training usually costs accuracy."""


@section("warnings", title="Read this first", order=20, applies=lambda run: bool(_callouts(run)))
def warnings(run: Run) -> tuple[Block, ...]:
    """Show what the run warned of, and what follows from its numbers; the gravest first."""
    levels = ("danger", "warning", "note")
    return tuple(sorted(_callouts(run), key=lambda c: levels.index(c.level)))


def _callouts(run: Run) -> list[Callout]:
    found = [*_failures(run), *_random(run), *_guessed(run)]
    if run.kind == "compress":
        found += _unmeasured(run)
    # What the run warned of may be one of those that follow from its numbers: not said twice.
    titles = {callout.title.lower() for callout in found}
    rest = [text for text in run.warnings if text.partition(":")[0] not in titles]
    return found + [Callout("warning", "", (_sentence(text),)) for text in rest]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _failures(run: Run) -> list[Callout]:
    found = []
    failed = ["--" + g.name.replace("_", "-") for g in run.gates if g.passed is False]
    if failed:
        found.append(Callout("danger", "A limit does not hold", (f"Failed: {', '.join(failed)}.",)))
    for comparison in run.comparisons:
        if comparison.passed is not False:
            continue
        if comparison.reference == "torch":
            text = "The written file does not compute what the method decided: do not use it."
        else:
            text = "Outputs differ from the original's by more than was allowed, or are broken."
        found.append(Callout("danger", "Verification failed", (text,)))
    models = reading.pair(run)
    if run.kind == "compress" and models and models[1].size_bytes > models[0].size_bytes:
        before, after = (model.size_bytes for model in models)
        text = f"{fmt.size(before).text} became {fmt.size(after).text}, {after - before:,} bytes more."
        found.append(Callout("danger", "The file grew", (text,)))
    return found


def _random(run: Run) -> list[Callout]:
    found = []
    if any(m.training is not None and m.training.random_data for m in run.methods):
        text = "Weights were fitted to random numbers, which say nothing of real inputs: for trying out only."
        found.append(Callout("danger", "Trained on random data", (text,)))
    if any(c.random_inputs for c in run.comparisons):
        text = (
            "Outputs were compared on seeded random inputs of the declared types and shapes. On real inputs "
            "the difference may be larger or smaller; only data can tell what it costs in accuracy."
        )
        found.append(Callout("warning", "Random inputs", (text,)))
    return found


def _guessed(run: Run) -> list[Callout]:
    """Say what training took outputs for, where nothing but their shape told: no failure, but to be known."""
    trained = {
        m.name: m.training for m in run.methods if m.training is not None and m.training.assumed_scores
    }
    if not trained:
        return []
    first = next(iter(trained.values()))
    text: tuple[Inline, ...] = (
        "Output ",
        Name(first.assumed_scores[0]),
        f" was taken for scores of classes (loss {first.loss} in {' and '.join(trained)}) because it is a "
        "row of numbers an example: neither labels nor the graph say what it holds. If it is something else "
        "(coordinates, an embedding), give ",
        Name("--loss l2"),
        "; if it is scores, ",
        Name(f"--loss {first.loss}"),
        " settles it.",
    )
    return [Callout("note", "The loss rests on a guess", text)]


def _unmeasured(run: Run) -> list[Callout]:
    found = []
    if not run.comparisons and run.accuracy is None and run.benchmark is None:
        text = "Neither outputs nor accuracy nor latency: this report vouches for the file's size alone."
        found.append(Callout("danger", "Nothing was measured", (text,)))
    low = [w for w in run.weights if w.entries is not None and w.entries <= LOW_BITS_ENTRIES]
    told = any("--data" in warning for warning in run.warnings)
    if low and not reading.trained(run) and not told:
        found.append(_few_bits(run, low))
    changed = any(w.encoding != "dense" or w.relative_error != 0 for w in run.weights)
    if run.methods and not (changed or run.cuts or run.simplifications):
        found.append(Callout("warning", "No weight changed", ("Every weight was left as it was.",)))
    return found


def _few_bits(run: Run, low: list[WeightFacts]) -> Callout:
    """Return what to do about codebooks of few values: what would have trained depends on what was given."""
    most = max(w.entries or 0 for w in low)
    said = (
        f"{fmt.plural(len(low), 'weight')} got a codebook of at most {most} values without training. "
        "At 3 bits or less that usually costs accuracy: "
    )
    title, fix = "Few bits, no training", tuple[Inline, ...](("give ", Name("--data"), " to train, or use "))
    if any("--max-time" in warning for warning in run.warnings):
        title, fix = "Few bits, no time to train", ("give more ", Name("--max-time"), ", or use ")
    elif any(m.training is not None for m in run.methods):
        fix = ("use ",)
    return Callout("warning", title, (said, *fix, Name("--bits 4"), "."))
