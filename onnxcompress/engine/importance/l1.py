"""ℓ1: the sum of absolute weights of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from onnxcompress.core.channels import Group
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores
from onnxcompress.engine.importance._norms import importance


@IMPORTANCES.register("l1")
class L1(Importance):
    """ℓ1 norms over all members, see :mod:`onnxcompress.engine.importance._norms`."""

    summary: ClassVar[str] = "sum of absolute weights over all members"
    source: ClassVar[str] = "Li et al. (2017), Pruning filters for efficient convnets, section 3.1"

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the norms, with mean 1 over each group."""
        return Scores({g.name: importance(g, evidence.channels, 1) for g in groups})
