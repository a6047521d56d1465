"""States of a training by what they reach on the validation split: which is better, and how it is told."""

from __future__ import annotations

import math
from typing import Protocol

from onnxcompress.core.run import TrainingPoint


class Scored(Protocol):
    """Loss and metric of a state; ``metric`` is None where there is none."""

    @property
    def loss(self) -> float:
        """The loss, less is better."""
        ...

    @property
    def metric(self) -> float | None:
        """The metric."""
        ...


def better(new: Scored, old: Scored, higher_is_better: bool | None) -> bool:
    """Return whether a state is better: by the metric, at equal metric by the loss; NaN is worst.

    ``higher_is_better`` None: by the loss alone, which says more than equal decisions where no label tells
    which decisions are right.
    """
    if math.isnan(new.loss) or (new.metric is not None and math.isnan(new.metric)):
        return False
    if math.isnan(old.loss) or (old.metric is not None and math.isnan(old.metric)):
        return True
    judged = higher_is_better is not None and new.metric is not None and old.metric is not None
    if judged and new.metric != old.metric:
        return (new.metric > old.metric) is higher_is_better  # type: ignore[operator]
    return new.loss < old.loss


def within_chance(one: Scored, other: Scored, examples: int, higher_is_better: bool | None) -> bool:
    """Return whether two shares of right decisions are the same but for chance.

    They are where they differ by less than the standard error of a share p of n examples, √(p (1 − p) / n).
    False where the metric is no share: absent, not 0 to 1, or an error, of which less is better, and which
    may be as small; and where a loss is not a number.
    """
    if not higher_is_better:
        return False
    shares = [s.metric for s in (one, other) if s.metric is not None and 0 <= s.metric <= 1]
    if len(shares) < 2 or examples < 1 or math.isnan(one.loss + other.loss):
        return False
    mean = sum(shares) / 2
    return abs(shares[0] - shares[1]) < math.sqrt(mean * (1 - mean) / examples)


def point(step: int, found: Scored, elapsed_s: float, loss: float | None = None) -> TrainingPoint:
    """Return a point of the path of a training that has no penalty.

    Args:
        step: its number.
        found: evaluation on the validation split.
        elapsed_s: seconds since the start.
        loss: mean loss on the training batches, told where it is finite.
    """
    shown = None if loss is None or not math.isfinite(loss) else loss
    return TrainingPoint(step, None, shown, found.loss, found.metric, None, elapsed_s)


def made_in_time(made: float, wished: float) -> str:
    """Return the sentence on passes that time was limited for.

    >>> made_in_time(0.123, 250)
    '--max-time was enough for 0.12 of 250 passes over the data'
    """
    enough, whole = (f"{passes:,.0f}" if passes >= 10 else f"{passes:.2g}" for passes in (made, wished))
    return f"--max-time was enough for {enough} of {whole} passes over the data"


def in_words(found: Scored, metric_name: str) -> str:
    """Return an evaluation in words, for progress: "validation loss 0.12, top1 0.97"."""
    words = f"validation loss {found.loss:.4g}"
    return words if found.metric is None else f"{words}, {metric_name} {found.metric:.4g}"
