"""Sentences about a compression as a whole that its user must see."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxcompress import verify
from onnxcompress.core.channel_facts import CutFacts
from onnxcompress.core.model import Model
from onnxcompress.core.run import Accuracy, Comparison
from onnxcompress.core.task import Task
from onnxcompress.engine.bottleneck.goals import read_goals
from onnxcompress.engine.widths import FAST
from onnxcompress.methods._base import Method
from onnxcompress.pipeline._original import Original

OVERSHOT = 0.9
"""What stays, divided by what a target allows, below which a user has to know why it is so little."""

FEW_LABELS = 20
"""Examples below which an accuracy says little."""

LEAST_ELEMENTS = 16
"""A tensor of fewer whole numbers is no weight: a zero point, a shape."""

MOSTLY = 0.5
"""Share of the most frequent class above which others are rare."""

TORCH_DIFFERS = 0.1
"""Relative ℓ2 of the original file from which on a user has to know that it differs from the torch model."""


def scores_told(original: Original) -> tuple[str, ...]:
    """Say what is looked at besides outputs that hold no scores, or only what was selected by them."""
    outputs = {o.name: o for o in original.session.outputs if o.name not in original.scores}
    real = [n for n, o in outputs.items() if o.numpy is not None and o.numpy.kind not in "iubO"]
    selected = [name for name in real if name in original.decided]
    said = []
    if selected:
        do = "holds" if len(selected) == 1 else "hold"
        said.append(
            f"{_listed(selected)} {do} what a decision selects, in an order that small changes turn around: "
            "nothing is trained towards that, nor proven by it"
        )
    if original.scores:
        does, is_ = ("does", "is") if len(original.scores) == 1 else ("do", "are")
        said.append(
            f"no output holds the scores that decide: {_listed(original.scores)}, which {does}, {is_} "
            "trained towards and compared with the outputs; the written file has those of the original alone"
        )
    return tuple(said)


def _listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them."""
    first = ", ".join(f"'{name}'" for name in names[:-1])
    return f"{first} and '{names[-1]}'" if first else f"'{names[-1]}'"


def overshot(method: Method, cut: CutFacts | None) -> tuple[str, ...]:
    """Say where much less stays than a target allows, which is what blocks of channels do to small models."""
    target, block = getattr(method, "target", None), getattr(method, "round_to", 1)
    if cut is None or target is None or block == 1:
        return ()
    counts = {
        "macs": ("multiply-accumulates", cut.macs_before, cut.macs_after),
        "params": ("parameters", cut.parameters_before, cut.parameters_after),
    }
    found = []
    for goal in read_goals(target):
        if goal.quantity not in counts:
            return ()
        what, before, after = counts[goal.quantity]
        limit = goal.limit if goal.limit < 1 else goal.limit / max(before, 1)
        found.append((after / max(before, 1) / limit, after / max(before, 1), limit, what))
    near, share, limit, what = max(found)
    if near >= OVERSHOT:
        return ()
    return (
        f"{share:.3g} of the {what} stay where {limit:.3g} may, because widths come in blocks of {block} "
        f"and, below that, of {min(block, FAST)}; a smaller --round-to may come nearer",
    )


def labels_doubtful(accuracy: Accuracy | None) -> tuple[str, ...]:
    """Say that the original is no better than one answer to all, as with mixed-up labels."""
    if accuracy is None or accuracy.trivial is None or accuracy.examples < FEW_LABELS:
        return ()
    before, trivial = accuracy.before, accuracy.trivial
    if not accuracy.higher_is_better:
        if before < trivial or trivial == 0:
            return ()
        return (
            f"the original's mean square error on the {accuracy.split} examples is {before:.3g}, and that of "
            f"the labels' own mean would be {trivial:.3g}: check that the labels are what the output is to "
            "be, and that inputs are scaled as it expects",
        )
    # Where one class is most of all, a good original may be right a little less often than by naming it.
    chance = 2 * math.sqrt(trivial * (1 - trivial) / accuracy.examples) if trivial > MOSTLY else 0.0
    if before > trivial - chance or trivial == 1:
        return ()
    return (
        f"the original is right on {100 * before:.3g} % of the {accuracy.split} examples, and one answer to "
        f"all of them would be on {100 * trivial:.3g} %: check that the labels are its classes in its order, "
        "and that inputs are scaled as it expects",
    )


def few_bits(model: Model) -> str:
    """Say how many tensors are stored in few bits by whoever made the model: no weights to methods."""
    tensors = [v.const_value for v in model.ir.graph.initializers.values() if v.const_value is not None]
    count = sum(t.dtype.is_integer() and t.dtype.bitwidth <= 8 and t.size >= LEAST_ELEMENTS for t in tensors)
    return f"; {count} of its tensors hold whole numbers of at most 8 bits already" if count else ""


def newer_format(before: Model, after: Model) -> tuple[str, ...]:
    """Say that a file is of a newer format, in which weights are no inputs of the graph."""
    old, new = int(before.ir.ir_version or 0), int(after.ir.ir_version or 0)
    if old == new:
        return ()
    return (
        f"the file is of IR version {new} now, not {old}: there weights need not be inputs of the graph, and "
        "no longer are",
    )


def too_much_lost(comparisons: tuple[Comparison, ...], task: Task | None) -> tuple[str, ...]:
    """Say which outputs depend on the input no more, or are no better than if they did not."""
    told = []
    target = getattr(task.samples, "targets", None) if task is not None and task.labelled else None
    for comparison in (c for c in comparisons if c.reference == "original"):
        first = next((o.name for o in comparison.outputs), None)
        labelled = None if target is None else target.output or first
        told += [*verify.lifeless(comparison), *verify.forgotten(comparison, labelled=labelled)]
    return tuple(f"{said}; compress less, or train longer" for said in told)


def torch_differs(comparisons: tuple[Comparison, ...]) -> tuple[str, ...]:
    """Say that torch computes something else than the file, where it does so of the original already."""
    floors = [c.tolerance / 4 for c in comparisons if c.reference == "torch" and c.tolerance is not None]
    if max(floors, default=0.0) <= TORCH_DIFFERS:
        return ()
    return (
        f"onnxruntime and torch compute even the original differently, by {100 * max(floors):.2g} % "
        "(relative l2): what was decided and trained with torch says little of what the file computes; "
        "please report this model",
    )
