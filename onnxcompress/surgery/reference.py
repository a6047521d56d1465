"""What a cut is measured against: the same model with the same channels silenced, every shape unchanged.

Where a normalisation looks at channels together, silencing is not enough: it would go on seeing what is cut.
In the reference it is shown the survivors alone: their positions are picked in front of it, and what it gives
is spread over all positions again (what stands where a channel was cut does not matter: it is silent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Keep
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.engine.channels import Channels, silenced, site_key
from onnxcompress.engine.channels.repetition import repetition


def reference(
    channels: Channels, keep: Keep, constants: Mapping[str, Array], *, survivors: bool = True
) -> Model:
    """Return the analysed model with channels silenced; constant ones have their constant instead of zero.

    Args:
        channels: the analysed model.
        keep: group name -> which of its channels stay.
        constants: site key -> the constant of each position along its axis; those that stay are ignored.
        survivors: normalisations see only the channels that stay.
    """
    model = silenced(channels, keep)
    builder = _Builder(channels, model)
    for name, mask in keep.items() if constants else ():
        for site in channels.group(name).sites:
            gone = (site.channel_of >= 0) & ~np.append(mask, True)[site.channel_of]
            values = constants.get(site_key(site))
            if values is not None and gone.any():
                builder.add(site.node, site.slot, site.axis, np.where(gone, values, 0.0))
    mixed = {name: mask for name, mask in keep.items() if channels.group(name).mixed}
    if survivors and mixed:
        for node in channels.ground.mixing:
            builder.show_survivors(node, mixed)
    return model


_Step = tuple[str, Array, Mapping[str, Any] | None]
"""A node to insert: operator, its second input, attributes."""


def _places(stays: Array, *, spread: bool) -> Array:
    """Return which positions stay, or for every position which of those stands there afterwards."""
    return np.where(stays, np.cumsum(stays) - 1, 0) if spread else np.flatnonzero(stays)


class _Builder:
    """Inserts nodes into the silenced model; nodes are found by those of the analysed graph."""

    def __init__(self, channels: Channels, model: Model) -> None:
        self._channels, self._graph = channels, model.ir.graph
        self._twins = {tuple(v.name for v in node.outputs): node for node in self._graph}
        self._count = 0

    def add(self, node: ir.Node, slot: int, axis: int, values: Array) -> None:
        """Add constants along one axis of what a node reads."""
        value = node.inputs[slot]
        assert value is not None
        rank = len(self._channels.shape(value.name or ""))
        dtype = (self._channels.ground.trace.dtypes.get(value) or ir.DataType.FLOAT).numpy()
        shape = [len(values) if k == axis else 1 for k in range(rank)]
        self._in_front(node, slot, "Add", values.astype(dtype).reshape(shape))

    def show_survivors(self, node: ir.Node, mixed: Keep) -> None:
        """Let a node see the positions alone that stay, and spread its outputs again."""
        twin = self._twins[tuple(v.name for v in node.outputs)]
        for slot, value in enumerate(node.inputs):
            for axis, stays in self._cut_axes(value, mixed).items():
                assert value is not None
                for op_type, array, attributes in self._picked(value, axis, stays, spread=False):
                    self._in_front(node, slot, op_type, array, attributes)
        for value, output in zip(node.outputs, twin.outputs, strict=True):
            for axis, stays in self._cut_axes(value, mixed).items():
                steps = self._picked(value, axis, stays, spread=True)
                made = output
                for op_type, array, attributes in steps:
                    made = self._behind(made, op_type, array, attributes)

    def _picked(self, value: ir.Value, axis: int, stays: Array, *, spread: bool) -> list[_Step]:
        """Return the nodes that pick the positions that stay along an axis, or spread those over all again.

        Where the length of the axis depends on the sizes of the inputs, channels are picked, not positions.
        """
        trace = self._channels.ground.trace
        varying = trace.dynamic.get(value, frozenset())
        repeated = repetition(self._channels.ground.along[value][axis]) if axis in varying else None
        if repeated is None or (repeated.outer > 1 and repeated.inner > 1):
            return [("Gather", _places(stays, spread=spread), {"axis": axis})]
        # Lengths in front are copied (0); one that varies behind the axis could not be told.
        behind = list(trace.shapes[value][axis + 1 :])
        front, apart = [0] * axis, [repeated.count, -1] if repeated.outer == 1 else [-1, repeated.count]
        if spread:
            apart = [int(stays.sum()) * n // len(stays) if n > 0 else n for n in apart]
        along = axis if repeated.outer == 1 else axis + 1
        return [
            ("Reshape", np.array([*front, *apart, *behind]), None),
            ("Gather", _places(repeated.per_channel(stays), spread=spread), {"axis": along}),
            ("Reshape", np.array([*front, -1, *behind]), None),
        ]

    def _cut_axes(self, value: ir.Value | None, keep: Keep) -> dict[int, Array]:
        if value is None or not value.name:
            return {}
        rank = len(self._channels.shape(value.name))
        found = {axis: self._channels.keep_along(value.name, axis, keep) for axis in range(rank)}
        return {axis: stays for axis, stays in found.items() if stays is not None}

    def _in_front(
        self,
        node: ir.Node,
        slot: int,
        op_type: str,
        array: Array,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        twin = self._twins[tuple(v.name for v in node.outputs)]
        source = twin.inputs[slot]
        assert source is not None
        made = self._node(op_type, source, array, attributes)
        self._graph.insert_before(twin, made)
        twin.replace_input_with(slot, made.outputs[0])

    def _behind(
        self, output: ir.Value, op_type: str, array: Array, attributes: Mapping[str, Any] | None
    ) -> ir.Value:
        readers = tuple(output.uses())
        made = self._node(op_type, output, array, attributes)
        producer = output.producer()
        assert producer is not None
        self._graph.insert_after(producer, made)
        for reader, slot in readers:
            reader.replace_input_with(slot, made.outputs[0])
        return made.outputs[0]

    def _node(
        self, op_type: str, source: ir.Value, array: Array, attributes: Mapping[str, Any] | None
    ) -> ir.Node:
        self._count += 1
        name = f"onnxcompress_reference_{self._count}"
        constant = ir.Value(name=f"{name}_by", const_value=ir.tensor(array, name=f"{name}_by"))
        constant.shape, constant.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self._graph.register_initializer(constant)
        converted = ir.convenience.convert_attributes(dict(attributes or {}))
        made = ir.Node("", op_type, [source, constant], converted, num_outputs=1, name=name)
        made.outputs[0].name, made.outputs[0].type = name, source.type
        return made
