"""What training under an information bottleneck came to: the path, and α of all channels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Ranking = Literal["alpha", "taylor"]
"""What ranked the channels: α of the gates, or the Taylor importance before training."""


@dataclass(frozen=True)
class PathPoint:
    """One moment of the training: γ, and how many channels of each group were over the threshold.

    ``information`` is what the group's gates let through, in nats, empty where it was not estimated.
    """

    epoch: float
    gamma: float
    kept: dict[str, int]
    information: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AlphaHistogram:
    """One group: its size, how many channels stay, and how many lie between consecutive edges of log α."""

    group: str
    size: int
    kept: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class GoalReached:
    """One quantity that a target limits: the share that may stay, and that stays; null: not measured."""

    quantity: str
    limit: float
    reached: float | None


@dataclass(frozen=True)
class Bottleneck:
    """α = μ²/σ² of every gated channel at the end of the gated training.

    ``threshold`` is the one used; it is moved where a ``target`` had to be met, of which ``reached`` is left:
    of several ``goals`` by the one that leaves least to spare, on the scale of the first.
    The outermost bins of ``log_alpha_edges`` (natural logarithm) hold everything beyond. ``by`` is "taylor"
    where few steps were too few for the gates, and the importance before training ranked the channels.
    """

    threshold: float
    log_alpha_edges: tuple[float, ...]
    histograms: tuple[AlphaHistogram, ...]
    path: tuple[PathPoint, ...]
    target: float | None = None
    reached: float | None = None
    goals: tuple[GoalReached, ...] = ()
    by: Ranking = "alpha"
