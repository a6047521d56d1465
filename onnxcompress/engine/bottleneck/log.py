"""The log of a training under a bottleneck: how far it is, and what it was like on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from onnxcompress.core.bottleneck import PathPoint
from onnxcompress.core.run import TrainingPoint
from onnxcompress.engine.training.scoring import in_words, point
from onnxcompress.engine.training.trainer import Evaluation, Trainer


class Log:
    """Evaluations, the path of the gates, and passes over the data.

    Args:
        trainer: evaluates.
        tell: told the part that is done, 0 to 1, words, and a new point or None.
        began: when the run began, by ``time.monotonic``.
        wished: passes with gates, and without, as there should be.

    Attributes:
        wished: see above.
        gated, after: passes with gates, and without, that there is time for.
        made: passes made.
        points: evaluations on the validation split.
        path: which channels were open on the way.
    """

    def __init__(
        self,
        trainer: Trainer,
        tell: Callable[[float, str, TrainingPoint | None], None],
        began: float,
        wished: tuple[float, float],
    ) -> None:
        self._trainer, self._tell, self._began = trainer, tell, began
        self.wished = wished
        self.gated, self.after = wished
        self.made = 0.0
        self.points: list[TrainingPoint] = []
        self.path: list[PathPoint] = []

    @property
    def shortened(self) -> bool:
        """Whether there is no time for all passes."""
        return self.gated + self.after < sum(self.wished)

    @property
    def gated_steps(self) -> int:
        """Number of steps with gates."""
        return max(1, round(self.gated * self._trainer.steps_per_epoch))

    def progress(self, made: float, words: str) -> None:
        """Tell how many passes are made."""
        self._tell(self._part(made), words, None)

    def note(self, words: str) -> Evaluation:
        """Evaluate on the validation split, keep it, and tell."""
        found = self._trainer.evaluate()
        self.points.append(point(len(self.points), found, time.monotonic() - self._began))
        told = f"{words}: {in_words(found, self._trainer.metric_name)}"
        self._tell(self._part(self.made), told, self.points[-1])
        return found

    def values(self) -> dict[str, Any]:
        """Return the state, plain values, for a checkpoint."""
        return {
            "epochs": self.made,
            "passes": [self.gated, self.after],
            "points": [asdict(p) for p in self.points],
            "path": [asdict(p) for p in self.path],
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Take up a state."""
        self.made = float(values["epochs"])
        self.gated, self.after = values["passes"]
        self.points = [TrainingPoint(**p) for p in values["points"]]
        self.path = [PathPoint(**p) for p in values["path"]]

    def _part(self, made: float) -> float:
        return min(made / (self.gated + self.after), 1.0)
