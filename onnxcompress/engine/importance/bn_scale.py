"""BN scale: the |γ| of the BatchNormalization that a channel goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxcompress.core.channels import Group
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores, by_channel, named
from onnxcompress.engine.importance._norms import batch_norms, importance


@IMPORTANCES.register("bn-scale")
class BnScale(Importance):
    """Mean |γ| over the BatchNormalizations of a group; groups without one are judged by ℓ2 norms."""

    summary: ClassVar[str] = "scale of BatchNormalization, where it was not folded away"
    source: ClassVar[str] = (
        "Liu et al. (2017), Learning efficient convolutional networks through network slimming"
    )

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return |γ|, with mean 1 over each group.

        Raises:
            UnsupportedError: no group goes through a BatchNormalization.
        """
        channels, found, without = evidence.channels, {}, []
        for group in groups:
            scales = _scales(group, channels)
            if scales:
                mean = np.mean(scales, axis=0)
                found[group.name] = mean / mean.mean() if mean.any() else np.ones(group.size)
            else:
                without.append(group.name)
                found[group.name] = importance(group, channels, 2)
        if groups and len(without) == len(groups):
            raise UnsupportedError(
                "--importance bn-scale has nothing to go by",
                why="no channel that may be cut goes through a BatchNormalization; exporters fold it away",
                fix="use --importance l2",
            )
        told = f"{named(without)} have no BatchNormalization of their own; they are judged by ℓ2 norms"
        return Scores(found, (told,) if without else ())


def _scales(group: Group, channels: Channels) -> list[Array]:
    """Return |γ| of each channel for every BatchNormalization the group goes through."""
    members = {m.tensor: m for m in group.members if m.axis == 0}
    names = {w.value: name for name, w in channels.model.weights.items()}
    found = []
    for node in batch_norms(channels):
        name = names.get(node.inputs[1]) if node.inputs[1] is not None else None
        if name in members:
            scale = np.abs(channels.model.array(name).astype(np.float64))
            found.append(by_channel(scale, members[name].channel_of, group.size))
    return found
