"""Geometric median: a filter near to the others can be replaced by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onnxcompress.core.channels import Group, Member
from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.importance._base import IMPORTANCES, Evidence, Importance, Scores, named
from onnxcompress.engine.importance._norms import importance, slices


@IMPORTANCES.register("geometric-median")
class GeometricMedian(Importance):
    """Sum of the distances from a channel's filters to those of the other channels.

    The filters are the slices of all members that make the channels, each member scaled to unit mean square;
    where nothing makes them (the model's input does), those that read them.
    """

    summary: ClassVar[str] = "distance of a channel's filters to those of the others"
    source: ClassVar[str] = "He et al. (2019), Filter pruning via geometric median, equations 5 and 6"

    def scores(self, groups: Sequence[Group], evidence: Evidence) -> Scores:
        """Return the distances; groups without filters are judged by ℓ2 norms."""
        found, without = {}, []
        for group in groups:
            filters = _filters(group, evidence.channels)
            if filters is None:
                without.append(group.name)
                found[group.name] = importance(group, evidence.channels, 2)
            else:
                found[group.name] = distances(filters)
        told = f"{named(without)} have no filters to compare; they are judged by ℓ2 norms"
        return Scores(found, (told,) if without else ())


def distances(filters: Array) -> Array:
    """Return for each row of (n, d) the sum of its Euclidean distances to all rows.

    >>> distances(np.array([[0.0], [1.0], [3.0]]))
    array([4., 3., 5.])
    """
    squares = np.square(filters).sum(axis=1)
    apart = squares[:, None] + squares[None] - 2 * filters @ filters.T
    np.fill_diagonal(apart, 0)
    return np.asarray(np.sqrt(np.maximum(apart, 0)).sum(axis=1))


def _filters(group: Group, channels: Channels) -> Array | None:
    members = list(slices(group, channels, False)) or list(slices(group, channels, True))
    rows = [row for m in members if (row := _rows(m, channels, group.size)) is not None]
    return np.concatenate(rows, axis=1) if rows else None


def _rows(member: Member, channels: Channels, size: int) -> Array | None:
    """Return one row a channel; None where channels have different numbers of positions."""
    order = np.argsort(member.channel_of, kind="stable")
    order = order[member.channel_of[order] >= 0]
    if (
        len(order) % size
        or (np.bincount(member.channel_of[order], minlength=size) != len(order) // size).any()
    ):
        return None
    array = np.take(channels.model.array(member.tensor), order, axis=member.axis)
    rows = np.moveaxis(array, member.axis, 0).reshape(size, -1).astype(np.float64)
    scale = np.sqrt(np.square(rows).sum(axis=1).mean())
    return rows / scale if scale > 0 else None
