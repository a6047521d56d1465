"""What labels mean where shapes leave that open: the original model tells by what it gets right.

Several outputs may have as many classes as labels name, and one number for two classes may be a logit or a
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from onnxcompress.engine.data.examples import Examples
from onnxcompress.engine.data.feeding import Predict
from onnxcompress.engine.data.labels import Labels

LOOKED_AT = 512
"""Training examples that the original is asked for, at most."""

_CLEARLY = 0.05
"""Share of right answers by which one half has to be the better threshold."""

_FEW = 3
"""Names that a sentence takes."""

Completion = Callable[[Examples], Examples]
"""Completes examples that have labels: how numbers are scaled may depend on them."""


def understood(
    examples: Examples, candidates: Sequence[Labels], complete: Completion, predict: Predict | None, seed: int
) -> Examples:
    """Return the examples with the labels that the original gets right most often, and all else completed.

    Args:
        examples: without labels.
        candidates: what the labels may be; of none that is better than the first, the first is taken.
        complete: what is to be done once labels are there.
        predict: the original model; None: the first it is.
        seed: of the choice of examples.
    """
    tried = [complete(replace(examples, targets=labels)) for labels in candidates]
    if predict is None:
        return tried[0]
    tried = [_with_meaning(one, predict, seed) for one in tried]
    if len(tried) == 1:
        return tried[0]
    found = [_goodness(one, predict, seed) for one in tried]
    best = int(np.argmax([goodness for goodness, _ in found]))
    others = _listed([one.targets.output or "" for one in tried if one is not tried[best] and one.targets])
    targets = tried[best].targets
    assert targets is not None
    why = (
        f"gets {_words(found[best][1], targets)} right" if targets.kind == "classes" else "is nearer to them"
    )
    note = f"the labels are taken for those of output '{targets.output}', not {others}: the original {why}"
    return replace(tried[best], notes=(*tried[best].notes, note))


def _words(share: float, targets: Labels) -> str:
    return f"{100 * share:.1f} % of {min(LOOKED_AT, targets.column.shape[0])}"


def _some(examples: Examples, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 0x3EA]).permutation(examples.splits["train"])[:LOOKED_AT]


def _with_meaning(examples: Examples, predict: Predict, seed: int) -> Examples:
    """Tell probabilities from logits: none of the former lies outside 0 to 1.

    What lies outside and is right more often at one half than at 0 is neither: a regression.
    """
    targets = examples.targets
    if targets is None or targets.binary is None:
        return examples
    assert targets.output is not None
    some = _some(examples, seed)
    found = examples.feeding.predict(predict, examples.inputs(some))[targets.output].reshape(len(some))
    if ((found >= 0) & (found <= 1)).all():
        return replace(examples, targets=replace(targets, binary="probability"))
    right = {at: float(((found > at) == targets.take(some)).mean()) for at in (0.0, 0.5)}
    if right[0.5] > right[0.0] + _CLEARLY:
        return replace(examples, targets=replace(targets, kind="values", classes=None, binary=None))
    return examples


def _goodness(examples: Examples, predict: Predict, seed: int) -> tuple[float, float]:
    """Return how much better than one answer to all the original is, 1 being perfect, and its metric."""
    # Imported here: metrics know labels.
    from onnxcompress.engine.measures.metrics import OneAnswer, metric_of  # noqa: PLC0415

    targets, some = examples.targets, _some(examples, seed)
    assert targets is not None
    name = "top1" if targets.kind == "classes" else "mse"
    metric, one_answer = metric_of(name, targets), OneAnswer(name)
    found, labels = examples.feeding.predict(predict, examples.inputs(some)), targets.take(some)
    metric.add(found, labels)
    one_answer.add(labels)
    value, trivial = metric.value(), one_answer.value() or 0.0
    if name == "top1":
        return (value - trivial) / max(1 - trivial, 1e-9), value
    return 1 - value / max(trivial, 1e-30), value


def _listed(names: Sequence[str]) -> str:
    """Return names for a sentence, the first of many.

    >>> _listed(["a", "b"]), _listed(["a", "b", "c", "d"])
    ("'a' or 'b'", "'a' or 3 more")
    """
    if len(names) > _FEW:
        return f"'{names[0]}' or {len(names) - 1} more"
    return " or ".join(f"'{name}'" for name in names)
