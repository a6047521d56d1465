"""Random: the baseline that every criterion has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores


@IMPORTANCES.register("random")
class Random(Importance):
    """Uniform random numbers from the seed."""

    summary: ClassVar[str] = "random numbers from the seed, the baseline"
    source: ClassVar[str] = "Mittal et al. (2018), Recovering from random pruning"

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return numbers between 0 and 1, the same for the same seed."""
        rng = np.random.default_rng(evidence.seed)
        return Scores({g.name: rng.uniform(size=g.size) for g in groups})
