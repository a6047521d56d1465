"""Goals: how much of which quantity may stay, one or several at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from onnxcompress.core.bottleneck import GoalReached
from onnxcompress.core.channels import Group, Keep
from onnxcompress.core.errors import UsageError
from onnxcompress.engine.bottleneck.choice import map_elements
from onnxcompress.engine.channels import Channels

Quantity = Literal["macs", "params", "elements", "latency"]

_UNITS = {"k": 1e3, "M": 1e6, "G": 1e9}

_Cut = tuple[tuple[str, bytes], ...]
"""What tells a cut from others."""


@dataclass(frozen=True)
class Goal:
    """One quantity of the whole model and what may stay of it: ``macs=0.5``, ``params=7k``.

    Attributes:
        quantity: multiply-accumulates, parameters, elements of the gated feature maps (as the layers after
            them read them), or the measured latency.
        limit: a share of the model at hand where below 1, otherwise a number; a latency is always a share.
    """

    quantity: Quantity
    limit: float

    @classmethod
    def read(cls, text: str) -> Goal:
        """Read one goal; raises UsageError."""
        name, _, number = text.strip().partition("=")
        factor = _UNITS.get(number[-1:], 1.0)
        try:
            limit = float(number[:-1] if number[-1:] in _UNITS else number) * factor
        except ValueError:
            limit = math.nan
        good = 0 < limit < math.inf and limit != 1 and (limit < 1 or name != "latency")
        if name not in get_args(Quantity) or not good:
            raise UsageError(
                f"cannot read the target {text!r}",
                fix=f"write {', '.join(get_args(Quantity))} = the share that stays, over 0 and below 1, "
                "or (but for latency) the number: macs=0.5, params=7k; several with commas",
            )
        return cls(name, limit)  # type: ignore[arg-type]

    def __str__(self) -> str:
        for unit, size in sorted(_UNITS.items(), key=lambda one: -one[1]):
            if self.limit >= size:
                return f"{self.quantity}={self.limit / size:g}{unit}"
        return f"{self.quantity}={self.limit:g}"


def read_goals(text: str) -> tuple[Goal, ...]:
    """Read goals with commas between them, one of each quantity; raises UsageError."""
    goals = tuple(Goal.read(part) for part in text.split(","))
    named = [goal.quantity for goal in goals]
    twice = next((quantity for quantity in named if named.count(quantity) > 1), None)
    if twice is not None:
        raise UsageError(f"the target {text!r} names {twice} twice", fix="keep the one that is meant")
    return goals


@dataclass(frozen=True)
class Measures:
    """What the decision and the steering look at.

    Attributes:
        most: share of the first goal's quantity that may stay.
        share: measures a cut on the same scale, by the goal that it misses by most.
        quick: what stands for it while training; None: ``share`` itself is quick.
        asked: the goals in words.
        met: whether they hold as the model is.
        reached: tells of each goal what a cut leaves; of a latency only where ``share`` measured that cut.
    """

    most: float
    share: Callable[[Keep], float]
    quick: Callable[[Keep], float] | None
    asked: str
    met: bool
    reached: Callable[[Keep], tuple[GoalReached, ...]]


def measures(
    goals: Sequence[Goal],
    channels: Channels,
    groups: Sequence[Group],
    latency: Callable[[Keep], float] | None,
) -> Measures:
    """Return how to measure cuts by several goals.

    Args:
        goals: at least one.
        channels: the analysed model.
        groups: those that may be cut.
        latency: measures the share of the latency that a cut leaves; None: it cannot be measured.

    Raises:
        UsageError: a latency is asked for that cannot be measured.
    """
    counts: dict[str, Callable[[Keep], float]] = {
        "macs": channels.macs,
        "params": channels.parameters,
        "elements": lambda keep: elements(channels, groups, keep),
    }
    known: dict[_Cut, float] = {}
    quick: list[tuple[Callable[[Keep], float], float]] = []
    exact: list[tuple[Callable[[Keep], float], float]] = []
    for goal in goals:
        # What a latency comes to is told by the multiply-accumulates until it is measured.
        count = counts["macs" if goal.quantity == "latency" else goal.quantity]
        whole = max(count({}), 1.0)
        limit = goal.limit if goal.limit < 1 else min(1.0, goal.limit / whole)
        quick.append((lambda keep, count=count, whole=whole: count(keep) / whole, limit))  # type: ignore[misc]
        if goal.quantity != "latency":
            exact.append(quick[-1])
        elif latency is None:
            raise UsageError("--target latency cannot be measured here", fix="use --target macs=X")
        else:
            exact.append((partial(_noted, latency, known), limit))
    most = quick[0][1]

    def worst(parts: Sequence[tuple[Callable[[Keep], float], float]], keep: Keep) -> float:
        return most * max(measure(keep) / limit for measure, limit in parts)

    def reached(keep: Keep) -> tuple[GoalReached, ...]:
        return tuple(
            GoalReached(
                goal.quantity, limit, known.get(_cut(keep)) if goal.quantity == "latency" else measure(keep)
            )
            for goal, (measure, limit) in zip(goals, exact, strict=True)
        )

    slow = any(goal.quantity == "latency" for goal in goals)
    return Measures(
        most,
        lambda keep: worst(exact, keep),
        (lambda keep: worst(quick, keep)) if slow else None,
        ",".join(map(str, goals)),
        all(limit >= 1 for _, limit in exact),
        reached,
    )


def _cut(keep: Keep) -> _Cut:
    return tuple(sorted((name, mask.tobytes()) for name, mask in keep.items() if not mask.all()))


def _noted(measure: Callable[[Keep], float], known: dict[_Cut, float], keep: Keep) -> float:
    """Measure a cut once, and remember what came out."""
    if _cut(keep) not in known:
        known[_cut(keep)] = measure(keep)
    return known[_cut(keep)]


def elements(channels: Channels, groups: Sequence[Group], keep: Mapping[str, object]) -> float:
    """Return the elements of the groups' feature maps, of one example."""
    total = 0.0
    for group in groups:
        mask = keep.get(group.name)
        width = group.size if mask is None else int(sum(mask))  # type: ignore[call-overload]
        total += width * map_elements(channels, group)
    return total
