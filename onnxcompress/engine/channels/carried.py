"""What hangs on a group: where it lies, and what would go if all its channels went."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.engine.channels.channels import Channels
from onnxcompress.ops._base import OPS, Shape


@dataclass(frozen=True)
class Carried:
    """Elements of weights, and multiply-accumulates of one inference, in which a channel takes part."""

    parameters: int
    macs: int


def carried(channels: Channels) -> dict[str, Carried]:
    """Return for every group what would go if all its channels went.

    It is ``channels.parameters({}) - channels.parameters({name: none stays})``, and the same of MACs, for
    all groups at once: each weight and node is looked at only for the groups that lie on it.
    """
    lengths = _Lengths(channels)
    parameters, macs = dict.fromkeys(lengths.names, 0), dict.fromkeys(lengths.names, 0)
    together = {w.value for family in channels.shared for w in family}
    for family in channels.shared:
        for name in lengths.groups_on([w.value for w in family]):
            gone = {name: np.zeros(channels.group(name).size, bool)}
            parameters[name] += channels.parameters_of(family, {}) - channels.parameters_of(family, gone)
    for weight in (w for w in channels.model.weights.values() if w.value not in together):
        for name in lengths.groups_on([weight.value]):
            parameters[name] += weight.size - math.prod(lengths.without(name, weight.value))
    for source, node in channels.costly:
        rule = OPS[node.domain, node.op_type].macs
        assert rule is not None
        outputs = [v for v in source.outputs if v.name]
        names = lengths.groups_on([*(v for v in source.inputs if v is not None), *outputs], source)
        work = {
            name: rule(
                node,
                [
                    None if v is None else lengths.read(name, v, source, k)
                    for k, v in enumerate(source.inputs)
                ],
                [lengths.without(name, v) for v in outputs],
            )
            for name in ([None, *names] if names else ())
        }
        for name in names:
            macs[name] += int(work[None]) - int(work[name])
    return {name: Carried(parameters[name], macs[name]) for name in lengths.names}


def groups_along(channels: Channels) -> dict[ir.Value, tuple[str, ...]]:
    """Return for each value of the main graph the groups with a channel along one of its axes, in order.

    Values without any are left out; of the others the axes with frozen groups alone, where another has free
    ones (positions of a sequence beside its features).
    """
    groups = channels.groups
    group_of = np.repeat(np.arange(len(groups)), [g.size for g in groups])
    along: dict[ir.Value, list[list[int]]] = {}
    for (value, _), numbers in channels.channels_along.items():
        here = group_of[numbers[numbers >= 0]]
        along.setdefault(value, []).append(here[np.sort(np.unique(here, return_index=True)[1])].tolist())
    found = {}
    for value, axes in along.items():
        shown = [axis for axis in axes if any(groups[g].free for g in axis)] or axes
        found[value] = tuple(dict.fromkeys(groups[g].name for axis in shown for g in axis))
    return found


def macs_of_nodes(channels: Channels) -> dict[ir.Node, int]:
    """Return the multiply-accumulates of each node of the main graph; left out: those not known."""
    shapes, found = channels.ground.trace.shapes, {}
    for source, node in channels.costly:
        rule = OPS[node.domain, node.op_type].macs
        assert rule is not None
        inputs = [None if v is None else shapes[v] for v in source.inputs]
        found[source] = int(rule(node, inputs, [shapes[v] for v in source.outputs if v.name]))
    return found


class _Lengths:
    """How many positions of each group lie along each axis of each value."""

    def __init__(self, channels: Channels) -> None:
        self.names = tuple(g.name for g in channels.groups)
        self._shapes = channels.ground.trace.shapes
        self._on: dict[ir.Value, dict[str, dict[int, int]]] = {}
        group_of = np.repeat(np.arange(len(self.names)), [g.size for g in channels.groups])
        for (value, axis), numbers in channels.channels_along.items():
            counts = np.bincount(group_of[numbers[numbers >= 0]])
            for index in np.flatnonzero(counts).tolist():
                self._on.setdefault(value, {}).setdefault(self.names[index], {})[axis] = int(counts[index])

        self._chosen: dict[ir.Node, dict[str, dict[int, dict[int, int]]]] = {}
        for group in channels.groups:
            for (node, slot), axes in channels.chosen({group.name: np.zeros(group.size, bool)}).items():
                self._chosen.setdefault(node, {}).setdefault(group.name, {})[slot] = axes

    def groups_on(self, values: Iterable[ir.Value], node: ir.Node | None = None) -> tuple[str, ...]:
        """Return the groups with a channel along an axis of one of these values, or in what a node reads."""
        names = dict.fromkeys(name for v in values for name in self._on.get(v, ()))
        return tuple(names if node is None else names | dict.fromkeys(self._chosen.get(node, ())))

    def read(self, name: str | None, value: ir.Value, node: ir.Node, slot: int) -> Shape:
        """Return the shape of what a node reads when all channels of a group are gone."""
        gone = self._chosen.get(node, {}).get(name or "", {}).get(slot, {})
        return tuple(s - gone.get(axis, 0) for axis, s in enumerate(self.without(name, value)))

    def without(self, name: str | None, value: ir.Value) -> Shape:
        """Return the shape of a value when all channels of a group are gone; None: of no group."""
        shape = list(self._shapes[value])
        for axis, count in self._on.get(value, {}).get(name or "", {}).items():
            shape[axis] -= count
        return tuple(shape)
