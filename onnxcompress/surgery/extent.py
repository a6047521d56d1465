"""How far a cut reaches: which positions stay along every axis of every value of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Keep, kept_positions
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.channels import Channels
from onnxcompress.ops._base import Shape

Place = tuple[ir.Node, int, int]
"""Node of the analysed graph, input, axis."""


class Extent:
    """A cut of some groups, looked at from every value; names are those of the analysed main graph.

    Args:
        channels: the analysed model.
        keep: group name -> which of its channels stay.

    Attributes:
        keep: the same without groups that stay whole.
        gathered: sites that read the model's input -> which positions a Gather in front of them keeps, of
            those the activation has before the cut.

    Raises:
        UnsupportedError: a group is unknown, frozen, or would be emptied.
    """

    def __init__(self, channels: Channels, keep: Keep) -> None:
        self.channels = channels
        self.keep = {name: mask for name, mask in _checked(channels, keep).items() if not mask.all()}
        self._known: dict[tuple[str, int], Array | None] = {}
        self.gathered: dict[Place, Array] = {}
        for name, mask in self.keep.items():
            group = channels.group(name)
            if group.sliceable:
                for site in group.sites:
                    place = (site.node, site.slot, site.axis)
                    stays = kept_positions(site, mask)
                    self.gathered[place] = self.gathered.get(place, np.ones(len(stays), bool)) & stays

    def along(self, value: ir.Value, axis: int) -> Array | None:
        """Return which positions along an axis stay, as bool; None where all do."""
        key = (value.name or "", axis)
        if key not in self._known:
            self._known[key] = self.channels.keep_along(*key, self.keep)
        return self._known[key]

    def shape(self, value: ir.Value) -> Shape | None:
        """Return the shape of a value before the cut; None where it is not known."""
        try:
            return tuple(int(d) for d in self.channels.shape(value.name or ""))
        except KeyError:
            return None

    def axes(self, value: ir.Value) -> dict[int, Array]:
        """Return the axes along which positions go, with those that stay."""
        shape = self.shape(value)
        found = {axis: self.along(value, axis) for axis in range(len(shape or ()))}
        return {axis: mask for axis, mask in found.items() if mask is not None}

    def read(self, node: ir.Node, slot: int, axis: int) -> Array | None:
        """Return which positions stay along an axis of what a node reads, a Gather in front included."""
        value = node.inputs[slot]
        if value is None:
            return None
        own, gathered = self.along(value, axis), self.gathered.get((node, slot, axis))
        if own is None or gathered is None:
            return own if gathered is None else gathered
        return own & gathered


def _checked(channels: Channels, keep: Keep) -> dict[str, Array]:
    """Return the masks as bool, after a look at each."""
    known = {g.name: g for g in channels.groups}
    for name, mask in keep.items():
        group = known.get(name)
        if group is None:
            raise UnsupportedError("there is no such channel group", where=name)
        if np.shape(mask) != (group.size,):
            raise UnsupportedError(
                "a cut does not fit its channel group",
                where=name,
                why=f"it has {group.size} channels, the mask {np.shape(mask)}",
            )
        if np.all(mask):
            continue
        if not (group.free or group.sliceable):
            raise UnsupportedError("a frozen channel group cannot be cut", where=name, why=group.frozen[0])
        if not np.any(mask):
            raise UnsupportedError(
                "a channel group would be emptied", where=name, fix="at least one of its channels must stay"
            )
    return {name: np.asarray(mask, bool) for name, mask in keep.items()}
