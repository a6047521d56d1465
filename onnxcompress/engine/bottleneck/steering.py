"""Steering: γ by dual ascent, so that what survives the bottleneck meets a target.

``min loss s.t. share ≤ target``: γ is the multiplier of the constraint. What is watched is not the share
itself, which says nothing before the first channel is gone, but the *level*: the log α over which so many
channels lie that the target is just met. All channels start at 9, and the decision falls at 0. The plan
takes the level from one to the other. Where it lags behind, γ is raised, and where it has fallen below 0,
so that more would be cut than has to be, γ is lowered: in proportion, and by what has added up, both on a
logarithmic scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxcompress.core.encoding import Array

START = 9.0
"""log α of a fresh gate."""

REACHED_AFTER = 0.6
"""Part of the training after which the level should be at 0."""

LOOKS = 100
"""How often γ is looked at in one training."""

_AT_ONCE, _ADDED_UP = 0.25, 0.06
"""Change of log γ for each unit that the level is off: as long as it is, and for good at each look."""

_MOST_OFF = 3.0
_RANGE = (1e-8, 1e3)


@dataclass
class Steering:
    """γ under way.

    Attributes:
        steps: of the whole training.
        level: measures the level now, in log α.
        gamma: the multiplier to start with.
    """

    steps: int
    level: Callable[[], float]
    gamma: float
    _base: float = field(init=False)

    def __post_init__(self) -> None:
        self._base = math.log(self.gamma)

    @property
    def every(self) -> int:
        """Steps between two looks."""
        return max(1, self.steps // LOOKS)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the state for a checkpoint."""
        return {}, {"base": self._base, "gamma": self.gamma}

    def restore(self, arrays: Mapping[str, Array], values: Mapping[str, Any]) -> None:
        """Take up a state."""
        self._base, self.gamma = float(values["base"]), float(values["gamma"])

    def planned(self, step: int) -> float:
        """Return the level planned for a moment."""
        return START * max(0.0, 1 - step / max(1.0, REACHED_AFTER * self.steps))

    def look(self, step: int) -> float:
        """Return γ for the steps to come."""
        level = self.level()
        off = level - self.planned(step)
        if off < 0:
            # Before 0 is reached there is no hurry the other way: noise that the task can bear costs nothing.
            off = min(level, 0.0)
        off = max(-_MOST_OFF, min(_MOST_OFF, off))
        low, high = (math.log(limit) for limit in _RANGE)
        self._base = max(low, min(high, self._base + _ADDED_UP * off))
        self.gamma = math.exp(self._base + _AT_ONCE * off)
        return self.gamma
