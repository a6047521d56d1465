"""Norms of channels over all their members, fair between members of different size, number and scale.

A channel does what its slices do together: what makes it, what scales it, what reads it. Seen through a
linear chain its contribution is the rank-one term (what reads it) · gain · (what makes it), whose norm is
the product of the norms; and that product does not change where a channel is scaled up in one layer and down
in the next, which changes nothing in the network. So::

    importance = mean over makers · gains · mean over readers

Every norm is divided by its mean over the group first, so that a large tensor counts as much as a small one.
Gains are the scales of BatchNormalization, |γ| / √(variance + ε), and depthwise filters. They are multiplied
where one maker feeds them one after the other, and averaged where several makers have one each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Group, Member
from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels import Channels
from onnxcompress.engine.importance._base import by_channel

Norm = Callable[[Array], Array]
"""Elements of a slice in any shape -> what is added up over them; see ``finish``."""


def importance(group: Group, channels: Channels, power: int) -> Array:
    """Return the importance of each channel, by ℓ1 or ℓ2 norms (``power``), with mean 1 over the group."""
    makers = [_relative(norms(m, channels, group.size, power)) for m in slices(group, channels, False)]
    readers = [_relative(norms(m, channels, group.size, power)) for m in slices(group, channels, True)]
    scales = [_relative(g) for g in (*gains(group, channels), *depthwise(group, channels, power))]
    found = np.ones(group.size)
    for parts in (makers, readers):
        if parts:
            found = found * np.mean(parts, axis=0)
    if scales:
        found = found * (np.prod(scales, axis=0) if len(makers) <= 1 else np.mean(scales, axis=0))
    return _relative(found)


def slices(group: Group, channels: Channels, consumes: bool) -> Iterator[Member]:
    """Yield the members of two or more axes that read the channels, or that make them."""
    single = {id(m) for m in _depthwise_members(group, channels)}
    for member in group.members:
        weight = channels.model.weights.get(member.tensor)
        if weight is None or len(weight.shape) < 2 or member.consumes != consumes or id(member) in single:
            continue
        if weight.size > max(weight.shape):  # not a bias written 1 C 1 1
            yield member


def norms(member: Member, channels: Channels, size: int, power: int) -> Array:
    """Return the norm of each channel's slice of one member."""
    array = np.moveaxis(channels.model.array(member.tensor), member.axis, -1)
    flat = np.abs(array.reshape(-1, array.shape[-1]).astype(np.float64))
    sums = by_channel((flat**power).sum(axis=0), member.channel_of, size)
    return sums ** (1 / power)


def gains(group: Group, channels: Channels) -> list[Array]:
    """Return |γ| / √(variance + ε) for each BatchNormalization that scales the channels."""
    found = []
    axes = {m.tensor: m for m in group.members if m.axis == 0}
    weights = {w.value: name for name, w in channels.model.weights.items()}
    for node in batch_norms(channels):
        names = [weights.get(v) if v is not None else None for v in node.inputs[1:5]]
        member = axes.get(names[0] or "")
        if member is None or names[3] is None:
            continue
        scale, variance = (channels.model.array(str(n)).astype(np.float64) for n in (names[0], names[3]))
        epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
        gain = np.abs(scale) / np.sqrt(np.maximum(variance, 0) + epsilon)
        found.append(by_channel(gain, member.channel_of, group.size))
    return found


def batch_norms(channels: Channels) -> Iterator[ir.Node]:
    """Yield the BatchNormalization nodes of the main graph."""
    for node in channels.model.ir.graph:
        if node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx") and len(node.inputs) >= 5:
            yield node


def depthwise(group: Group, channels: Channels, power: int) -> list[Array]:
    """Return the norms of depthwise filters: they scale a channel, and make it of nothing but itself."""
    return [norms(m, channels, group.size, power) for m in _depthwise_members(group, channels)]


def _depthwise_members(group: Group, channels: Channels) -> list[Member]:
    names = {w.value: name for name, w in channels.model.weights.items()}
    found = []
    for member in group.members:
        weight = channels.model.weights.get(member.tensor)
        if weight is None or member.axis != 0 or len(weight.shape) < 3 or weight.shape[1] != 1:
            continue
        for node, slot in weight.value.uses():
            count = node.attributes["group"].as_int() if "group" in node.attributes else 1
            if node.op_type == "Conv" and slot == 1 and count > 1 and names[weight.value] == member.tensor:
                found.append(member)
                break
    return found


def _relative(values: Array) -> Array:
    """Return values divided by their mean; ones where all are zero."""
    mean = float(values.mean()) if len(values) else 0.0
    return values / mean if mean > 0 else np.ones(len(values))
