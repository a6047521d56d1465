"""From labels to groups: connected components with the same members are channels of one group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Group, Member, Site
from onnxcompress.core.encoding import Array
from onnxcompress.engine.channels.crossing import Ground
from onnxcompress.engine.channels.labels import Kind

Key = tuple[ir.Value, int]
"""One axis of one constant."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Groups, and where their channels lie along every axis of every value.

    Attributes:
        groups: in the order in which the graph makes them.
        starts: group name -> number of its first channel, counted over all groups.
        channel_of: label -> number of its channel over all groups, −1 where it belongs to none.
    """

    groups: tuple[Group, ...]
    starts: Mapping[str, int]
    channel_of: Array


def grouping(ground: Ground, names: Mapping[ir.Value, str]) -> Grouping:
    """Resolve the ledger into groups.

    Args:
        ground: after every node was crossed.
        names: name of each constant, as the model calls it.
    """
    roots = ground.ledger.roots()
    _freeze_whole_axes(ground, roots)
    keys = {(value, axis): number for number, (_, value, axis) in enumerate(ground.origins)}
    signatures, members = _signatures(ground, roots, keys)
    reasons, sliceable = _reasons(ground, roots)
    mixed = np.zeros(len(signatures), bool)
    for labels in ground.ledger.mixed:
        mixed[roots[labels]] = True
    return _groups(_Found(ground, names, roots, keys, signatures, members, reasons, sliceable, mixed))


@dataclass(frozen=True, eq=False)
class _Found:
    ground: Ground
    names: Mapping[ir.Value, str]
    roots: Array
    keys: Mapping[Key, int]
    signatures: Array
    members: Array
    reasons: Mapping[int, list[str]]
    sliceable: Array
    mixed: Array


def _freeze_whole_axes(ground: Ground, roots: Array) -> None:
    """Freeze components that own every position of some axis: cutting them would empty it."""
    for value, axes in ground.along.items():
        for axis, labels in axes.items():
            own = roots[labels]
            if (own == own[0]).all():
                ground.ledger.freeze(labels[:1], f"is the whole of axis {axis} of {value.name!r}")


def _signatures(ground: Ground, roots: Array, keys: Mapping[Key, int]) -> tuple[Array, Array]:
    """Return for each component a number that says which axes it lies on, and how many constants' axes.

    The axes of activations count too: channels that part company on the way are groups of their own, so that
    no axis loses all its positions while every group keeps some channels. A component's number is the sum of
    random numbers drawn for its axes: two sets of axes have the same sum with probability 2⁻⁶⁴.
    """
    count = int(roots.max()) + 1 if len(roots) else 0
    signatures, members = np.zeros(count, np.uint64), np.zeros(count, np.int64)
    generator = np.random.default_rng(0)
    for value, axes in ground.along.items():
        for axis, labels in axes.items():
            here = np.unique(roots[labels])
            signatures[here] += generator.integers(0, 2**63, dtype=np.uint64)
            members[here] += (value, axis) in keys
    return signatures, members


def _reasons(ground: Ground, roots: Array) -> tuple[dict[int, list[str]], Array]:
    """Return the reasons of each frozen component, and which are frozen only because they read the input."""
    reasons: dict[int, list[str]] = {}
    fixed = np.zeros(int(roots.max()) + 1 if len(roots) else 0, bool)
    for frozen in ground.ledger.frozen:
        for root in np.unique(roots[frozen.labels]).tolist():
            told = reasons.setdefault(root, [])
            if frozen.why not in told and len(told) < _MOST_REASONS:
                told.append(frozen.why)
            fixed[root] |= frozen.kind is not Kind.INPUT
    return reasons, ~fixed


_MOST_REASONS = 3


def _groups(found: _Found) -> Grouping:
    """Collect components into groups, in the order in which constants hold them."""
    consumed = _consumed(found.ground)
    order: dict[tuple[int, bool, tuple[str, ...]], list[int]] = {}
    seen: set[int] = set()
    for _, value, axis in found.ground.origins:
        labels = found.roots[found.ground.along[value][axis]]
        _, first = np.unique(labels, return_index=True)
        for root in labels[np.sort(first)].tolist():
            if root not in seen:
                seen.add(root)
                key = (
                    int(found.signatures[root]),
                    bool(found.mixed[root]),
                    tuple(found.reasons.get(root, ())),
                )
                order.setdefault(key, []).append(root)
    channel_of_root = np.full(len(found.signatures), -1, np.int64)
    groups: list[Group] = []
    starts: dict[str, int] = {}
    taken: dict[str, int] = {}
    matrices = {
        found.names[v] for v, axes in found.ground.along.items() if v in found.names and len(axes) > 1
    }
    sites, axes, computed = _sites_by_root(found), _axes_by_root(found), _computed(found)
    position = 0
    for (_, mixed, reasons), roots in order.items():
        channels = np.full(len(found.signatures) + 1, -1, np.int64)
        channels[roots] = np.arange(len(roots))
        own_sites = tuple(
            _site(found, s, channels) for s in sorted({s for r in roots for s in sites.get(r, ())})
        )
        members = tuple(_member(found, key, channels, consumed) for key in axes[roots[0]])
        coupled = found.members[roots[0]] > 1
        read = bool(own_sites) or any(m.consumes for m in members)
        made = {m.tensor for m in members if not m.consumes} & matrices
        if not read and not (reasons and made and computed[roots].all()):
            continue  # no channels: a table of sizes, a mask, a window of a convolution
        if not coupled and not reasons and not (own_sites and computed[roots].all()):
            continue  # a tied weight makes channels and reads them along one and the same axis
        name = _name(members, matrices, taken)
        sliceable = bool(reasons) and bool(found.sliceable[roots].all()) and bool(own_sites)
        groups.append(Group(name, len(roots), members, own_sites, mixed, reasons, sliceable))
        starts[name] = position
        channel_of_root[roots] = position + np.arange(len(roots))
        position += len(roots)
    return Grouping(tuple(groups), starts, channel_of_root[found.roots])


def _consumed(ground: Ground) -> set[Key]:
    """Return the axes of constants that are summed over."""
    found: set[Key] = set()
    for labels in ground.consumed:
        origin = ground.origin(int(labels.flat[0]))
        if origin is not None:
            found.add(origin)
    return found


def _computed(found: _Found) -> Array:
    """Tell of each component whether a value computed from data has it along an axis."""
    seen = np.zeros(len(found.signatures), bool)
    for value, axes in found.ground.along.items():
        if value not in found.ground.trace.data_free:
            for labels in axes.values():
                seen[found.roots[labels]] = True
    return seen


def _sites_by_root(found: _Found) -> dict[int, list[int]]:
    sites: dict[int, list[int]] = {}
    for number, place in enumerate(found.ground.sums):
        for root in np.unique(found.roots[place.labels]).tolist():
            sites.setdefault(root, []).append(number)
    return sites


def _site(found: _Found, number: int, channels: Array) -> Site:
    place = found.ground.sums[number]
    weight = found.names.get(place.weight) if place.weight is not None else None
    axis = place.weight_axis if weight is not None else None
    return Site(place.node, place.slot, place.axis, channels[found.roots[place.labels]], weight, axis)


def _axes_by_root(found: _Found) -> dict[int, list[Key]]:
    axes: dict[int, list[Key]] = {}
    for value, axis in found.keys:
        for root in np.unique(found.roots[found.ground.along[value][axis]]).tolist():
            axes.setdefault(root, []).append((value, axis))
    return axes


def _member(found: _Found, key: Key, channels: Array, consumed: set[Key]) -> Member:
    value, axis = key
    labels = found.roots[found.ground.along[value][axis]]
    alone = len(found.ground.trace.shapes[value]) == 1
    return Member(found.names[value], axis, channels[labels], key in consumed, alone)


def _name(members: tuple[Member, ...], matrices: set[str], taken: dict[str, int]) -> str:
    """Name a group after the tensor that makes its channels: the first with several axes, else the first."""
    makers = [m for m in members if not m.consumes] or list(members)
    base = next((m.tensor for m in makers if m.tensor in matrices), makers[0].tensor)
    taken[base] = taken.get(base, 0) + 1
    return base if taken[base] == 1 else f"{base}#{taken[base]}"
