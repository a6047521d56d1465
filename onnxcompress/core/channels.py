"""Channel groups: the unit of structure. All slices of all tensors that must be kept or cut together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxcompress.core.encoding import Array

if TYPE_CHECKING:
    import onnx_ir as ir


Keep = Mapping[str, Array]
"""Group name -> which of its channels stay (bool, ``group.size``); groups not named stay whole."""


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one constant tensor that holds channels of a group.

    Attributes:
        tensor: weight name where the tensor is a weight, else the name of the value.
        axis: its axis.
        channel_of: for each position along the axis the channel of the group it belongs to, −1 where it
            belongs to another group. A channel may own many positions (Flatten in front of a Gemm).
        consumes: whether the axis is summed over, so that the slice reads the channel instead of making it.
        alone: whether the tensor has no other axis: a bias, or the scale of a normalisation.
    """

    tensor: str
    axis: int
    channel_of: Array
    consumes: bool
    alone: bool = False


@dataclass(frozen=True, eq=False)
class Site:
    """A place where a group's channels are summed over: a channel that is zero on all has no effect.

    Attributes:
        node: the consumer, in the analysed graph.
        slot: its input with the activation.
        axis: the activation's axis (not negative).
        channel_of: for each position along it the channel of the group, −1 where it belongs to another group.
        weight: name of the weight it is summed against, None where that is an activation or nothing.
        weight_axis: the weight's axis; its positions are the activation's, repeated per group of a grouped
            convolution. None where ``weight`` is.
    """

    node: ir.Node
    slot: int
    axis: int
    channel_of: Array
    weight: str | None
    weight_axis: int | None


@dataclass(frozen=True, eq=False)
class Group:
    """Channels with the same members: one is like the other, and each may be cut alone.

    Attributes:
        name: unique in the model and stable; that of the tensor that makes the channels, or first reads them.
        size: number of channels.
        members: every axis of every constant that holds them.
        sites: every place where they are summed over.
        mixed: whether a normalisation looks at them together (LayerNormalization): cutting one then changes
            what the others become, so that silencing is not the same as cutting.
        frozen: why they cannot be cut, in words; empty for a free group.
        sliceable: whether the only reason is that they come from the model's input: they can be cut by a
            Gather in front of their sites.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    sites: tuple[Site, ...]
    mixed: bool = False
    frozen: tuple[str, ...] = ()
    sliceable: bool = False

    @property
    def free(self) -> bool:
        """Tell whether its channels can be cut."""
        return not self.frozen


def kept_positions(part: Member | Site, keep: Array) -> Array:
    """Return which positions along the axis stay when the channels ``keep`` (bool, ``size``) do.

    >>> # channel_of = [0, 0, 1, 1, -1], keep = [False, True] -> [False, False, True, True, True]
    """
    return np.where(part.channel_of < 0, True, np.append(keep, True)[part.channel_of])
