"""ℓ2: the Euclidean norm of a channel's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from onnxcompress.core.channels import Group
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores
from onnxcompress.engine.importance._norms import importance


@IMPORTANCES.register("l2")
class L2(Importance):
    """ℓ2 norms over all members, see :mod:`onnxcompress.engine.importance._norms`."""

    summary: ClassVar[str] = "Euclidean norm of the weights over all members"
    source: ClassVar[str] = (
        "He et al. (2018), Soft filter pruning, equation 3; coupled layers as Fang et al. (2023), DepGraph"
    )

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the norms, with mean 1 over each group."""
        return Scores({g.name: importance(g, evidence.channels, 2) for g in groups})
