"""What LC asks of an L step: it trains with a pull towards Δ(Θ), and scores compressed weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from onnxcompress.core.encoding import Array


@dataclass(frozen=True)
class Pull:
    """The penalty ``mu/2 Σ ‖w − target‖²`` of one L step."""

    mu: float
    targets: Mapping[str, Array]


@dataclass(frozen=True)
class Learned:
    """What an L step came to: mean task loss, passes made, and whether time ran out or the loss diverged."""

    loss: float | None
    epochs: float
    stopped: Literal["done", "time", "diverged"]


@dataclass(frozen=True)
class Score:
    """Loss and metric on so many validation examples; ``metric`` is None where there is none."""

    loss: float
    metric: float | None
    examples: int = 0


class Learner(Protocol):
    """The L step: it owns the network, the data, and the weights that are not compressed."""

    higher_is_better: bool | None
    """Direction of the metric; None: states are judged by the loss."""

    sufficient: Score | None
    """Where the original remembers the validation examples, so do the states near it, and outscore better
    ones: then only states of the second half of the path compete, if one of them reaches this score there.
    None: all states compete."""

    def weights(self, names: Sequence[str]) -> dict[str, Array]:
        """Return weights as they are now."""
        ...

    def put(self, arrays: Mapping[str, Array]) -> None:
        """Set weights."""
        ...

    def others(self) -> dict[str, Array]:
        """Return the weights that are trained along but not compressed (biases, normalisation)."""
        ...

    def learn(self, step: int, pull: Pull | None, *, epochs: float, lr: float) -> Learned:
        """Train from the present weights."""
        ...

    def score(self, arrays: Mapping[str, Array]) -> Score:
        """Evaluate on the validation split with these weights in place of the present ones."""
        ...
