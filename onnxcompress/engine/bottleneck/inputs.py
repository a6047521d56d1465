"""Values of the input that are not worth a Gather: choosing them takes more bytes than it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxcompress.core.channels import Group, Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.engine.bottleneck.folding import folded

_NODES = 120
"""About as many bytes take a Gather, what decodes its positions, and their names."""


def costlier(groups: Sequence[Group], keep: Keep, model: Model) -> tuple[Group, ...]:
    """Return the groups of values of the input that take more bytes to choose than their weights save."""
    return tuple(
        g for g in groups if g.name in keep and g.frozen and _saved(g, keep[g.name], model) <= _taken(g, keep)
    )


def zeroed(
    groups: Sequence[Group], keep: Keep, arrays: Mapping[str, Array], model: Model
) -> dict[str, Array]:
    """Return the weights that read these groups, zero where a channel does not stay.

    Args:
        groups: for which :func:`~onnxcompress.engine.bottleneck.folding.why_not` returned None.
        keep: group name -> which channels stay.
        arrays: weights that have changed already, by name.
        model: holds the others.
    """
    names = {s.weight for g in groups for s in g.sites if s.weight is not None}
    present = {name: arrays[name] if name in arrays else model.array(name) for name in names}
    return folded(groups, {g.name: keep[g.name].astype(np.float64) for g in groups}, present)


def _saved(group: Group, mask: Array, model: Model) -> int:
    total = 0
    for weight, axis in {(s.weight, s.weight_axis) for s in group.sites}:
        if weight is not None and axis is not None:
            known = model.weights[weight]
            total += known.size * known.dtype.itemsize * int((~mask).sum()) // group.size
    return total


def _taken(group: Group, keep: Keep) -> int:
    return _NODES + int(keep[group.name].sum())
