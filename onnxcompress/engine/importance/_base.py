"""What a criterion provides: one number for each channel of each group, larger where more would be missed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.registry import Registry

if TYPE_CHECKING:
    from onnxcompress.core.task import Task
    from onnxcompress.engine.channels import Channels


@dataclass(frozen=True)
class Evidence:
    """What importance may be judged by.

    Attributes:
        channels: the analysed model.
        task: the data; None where there is none.
        device: torch device.
        seed: of random choices.
    """

    channels: Channels
    task: Task | None = None
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """What a criterion found.

    Attributes:
        of: group name -> importance of each channel (``group.size``), at least 0; comparable within a group.
        warnings: sentences the user must see, on groups that had to be judged otherwise.
    """

    of: Mapping[str, Array]
    warnings: tuple[str, ...] = ()


class Importance(ABC):
    """A criterion.

    Attributes:
        needs_inputs: whether it needs data, labels or not.
        summary: one line.
        source: paper.
    """

    needs_inputs: ClassVar[bool] = False
    summary: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the importance of every channel of these groups.

        Raises:
            UnsupportedError: the model has not what it is judged by.
        """


IMPORTANCES: Registry[str, type[Importance]] = Registry("onnxcompress.engine.importance", "importance")


def named(groups: Sequence[str]) -> str:
    """Return some of the names, for a message."""
    told = ", ".join(f"'{name}'" for name in groups[:3])
    return told + (f" and {len(groups) - 3} more" if len(groups) > 3 else "")


def by_channel(values: Array, channel_of: Array, size: int) -> Array:
    """Return the sums over each channel's positions; ``values`` has the positions along its last axis."""
    here = channel_of >= 0
    places, rows = channel_of[here], values[..., here].reshape(-1, int(here.sum()))
    sums = [np.bincount(places, weights=row, minlength=size) for row in rows]
    return np.array(sums).reshape(*values.shape[:-1], size)
