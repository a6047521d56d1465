"""Channels: the result of an analysis, and what cutting would leave of shapes, parameters and work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Group, Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model, Weight, constant_of, subgraphs
from onnxcompress.core.refusal import Refusal
from onnxcompress.engine.channels.crossing import Ground
from onnxcompress.engine.channels.grouping import Grouping
from onnxcompress.engine.channels.unsharing import UNSHARED
from onnxcompress.engine.measures.costs import as_node, count_macs
from onnxcompress.ops._base import OPS, Node, Shape


@dataclass(frozen=True, eq=False)
class Channels:
    """The channel groups of one model.

    Attributes:
        model: the analysed clone; ``Site.node`` and the values asked about by name are of it.
        unknown: operator -> number of nodes that froze what they touch, because no rule is known.
        out_of_reach: weights that no group can hold, with the reason.
    """

    model: Model
    _grouping: Grouping
    ground: Ground = field(repr=False)
    unknown: Mapping[str, int]
    out_of_reach: tuple[Refusal, ...] = ()

    @property
    def groups(self) -> tuple[Group, ...]:
        """All groups, frozen ones included, in the order in which the graph makes them."""
        return self._grouping.groups

    @property
    def free(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(g for g in self.groups if g.free)

    def group(self, name: str) -> Group:
        """Return a group by name; raises KeyError."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def _values(self) -> dict[str, ir.Value]:
        return {v.name: v for v in self.ground.trace.shapes if v.name}

    def value(self, name: str) -> ir.Value:
        """Return a value of the analysed main graph by name; raises KeyError."""
        return self._values[name]

    def shape(self, name: str) -> Shape:
        """Return the shape of a value before any cut, in the traced run; raises KeyError."""
        return self.ground.trace.shapes[self._values[name]]

    def is_dynamic(self, name: str, axis: int) -> bool:
        """Tell whether the length of an axis depends on the sizes the model is fed with."""
        return axis in self.ground.trace.dynamic.get(self._values[name], frozenset())

    def constant(self, name: str) -> Array | None:
        """Return a value that no data reaches and that is the same for all input sizes, else None."""
        value = self._values.get(name)
        if value is None:
            return None
        if value in self.ground.trace.constant:
            return self.ground.trace.arrays[value]
        tensor = constant_of(value)
        return None if tensor is None else np.asarray(tensor.numpy())

    def keep_along(self, name: str, axis: int, keep: Keep) -> Array | None:
        """Return which positions along an axis stay, as bool; None where all do."""
        value = self._values.get(name)
        channels = None if value is None else self.channels_along.get((value, axis))
        if channels is None:
            return None
        stays = self._stays(keep)[channels]
        return None if stays.all() else stays

    @cached_property
    def channels_along(self) -> dict[tuple[ir.Value, int], Array]:
        """Channel numbers, −1 where there is none, for each (value, axis) with channels of a group.

        A channel's number counts the channels of all groups, in the order of ``groups``.
        """
        of, found = self._grouping.channel_of, {}
        for value, axes in self.ground.along.items():
            for axis, labels in axes.items():
                channels = of[labels]
                if (channels >= 0).any():
                    found[value, axis] = channels
        return found

    def _stays(self, keep: Keep) -> Array:
        """Return for every channel number whether it stays; the last entry is for positions of no group."""
        total = sum(g.size for g in self.groups)
        stays = np.ones(total + 1, bool)
        for name, mask in keep.items():
            start = self._grouping.starts[name]
            group = self.group(name)
            if len(mask) != group.size:
                raise ValueError(f"group {name!r} has {group.size} channels, not {len(mask)}")
            stays[start : start + group.size] = mask
        return stays

    def _cut_shape(self, value: ir.Value, stays: Array) -> Shape:
        shape = list(self.ground.trace.shapes[value])
        for axis in self.ground.along.get(value, {}):
            channels = self.channels_along.get((value, axis))
            if channels is not None:
                shape[axis] = int(stays[channels].sum())
        return tuple(shape)

    def cut_shape(self, name: str, keep: Keep) -> Shape:
        """Return the shape of a value after the cut, in the traced run."""
        return self._cut_shape(self._values[name], self._stays(keep))

    def parameters(self, keep: Keep) -> int:
        """Return the number of elements of all floating-point weights of the file after the cut."""
        stays, together = self._stays(keep), {w.value for family in self.shared for w in family}
        total = 0
        for weight in self.model.weights.values():
            if weight.value not in together:
                known = weight.value in self.ground.trace.shapes
                shape = self._cut_shape(weight.value, stays) if known else weight.shape
                total += int(np.prod(shape, dtype=np.int64))
        return total + sum(self.parameters_of(family, keep) for family in self.shared)

    @cached_property
    def shared(self) -> tuple[tuple[Weight, ...], ...]:
        """The weights that are one constant in the file: it and the copies that ``unshared`` made."""
        families: dict[str, list[Weight]] = {}
        for weight in self.model.weights.values():
            original = weight.value.meta.get(UNSHARED)
            if original is not None:
                families.setdefault(str(original), []).append(weight)
        own = self.model.weights
        return tuple((*([own[n]] if n in own else []), *found) for n, found in families.items())

    def parameters_of(self, family: tuple[Weight, ...], keep: Keep) -> int:
        """Return the elements that one of ``shared`` has in the file: what stays equal is stored once."""
        contents = {}
        for weight in family:
            array, stays = self.model.array(weight.name), self.keep_along(weight.value.name or "", 0, keep)
            left = array if stays is None else array[stays]
            contents[left.tobytes()] = left.size
        return sum(contents.values())

    def macs(self, keep: Keep) -> int:
        """Return the multiply-accumulates of one inference after the cut."""
        return sum(self.macs_by_node(keep).values()) + self.nested_macs

    @cached_property
    def nested_macs(self) -> int:
        """Multiply-accumulates in bodies of If, Loop and Scan and in local functions: no cut reaches them."""
        graph, known = self.model.ir.graph, self.ground.trace.shapes
        if not self.model.ir.functions and next(subgraphs(graph), None) is None:
            return 0
        inputs = {v.name or "": known[v] for v in graph.inputs if v in known}
        return max(0, count_macs(self.model, inputs).total - sum(self.macs_by_node({}).values()))

    def chosen(self, keep: Keep) -> dict[tuple[ir.Node, int], dict[int, int]]:
        """Return (node, slot) -> axis -> how many positions a Gather in front of it leaves out there."""
        found: dict[tuple[ir.Node, int], dict[int, int]] = {}
        for name, mask in keep.items():
            for site in self.group(name).sites:
                value = site.node.inputs[site.slot]
                own = site.channel_of >= 0
                along = None if value is None else self.channels_along.get((value, site.axis))
                if along is not None:  # what is cut out of the value itself
                    own &= along < 0
                if gone := int((~mask[site.channel_of[own]]).sum()):
                    axes = found.setdefault((site.node, site.slot), {})
                    axes[site.axis] = axes.get(site.axis, 0) + gone
        return found

    def macs_by_node(self, keep: Keep) -> dict[str, int]:
        """Return node of the main graph -> multiply-accumulates after the cut; those with none left out."""
        stays, chosen = self._stays(keep), self.chosen(keep)
        found: dict[str, int] = {}
        for index, (source, node) in enumerate(self.costly):
            op = OPS[node.domain, node.op_type]
            assert op.macs is not None
            inputs = [
                None if v is None else _less(self._cut_shape(v, stays), chosen.get((source, slot), {}))
                for slot, v in enumerate(source.inputs)
            ]
            outputs = [self._cut_shape(v, stays) for v in source.outputs if v.name]
            macs = int(op.macs(node, inputs, outputs))
            if macs:
                name = source.name or f"{node.op_type}_{index}"
                found[name] = found.get(name, 0) + macs
        return found

    @cached_property
    def costly(self) -> list[tuple[ir.Node, Node]]:
        """The nodes of the main graph with a cost rule and known shapes, each also as operators see it."""
        graph, shapes = self.model.ir, self.ground.trace.shapes
        found = []
        for node in graph.graph:
            op = OPS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
            values = [v for v in (*node.inputs, *node.outputs) if v is not None and v.name]
            if op is not None and op.macs is not None and all(v in shapes for v in values):
                found.append((node, as_node(node, graph.opset_imports)))
        return found


def _less(shape: Shape, gone: Mapping[int, int]) -> Shape:
    return tuple(size - gone.get(axis, 0) for axis, size in enumerate(shape))
