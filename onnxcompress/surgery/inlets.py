"""Channels that the model's input brings: a Gather in front of the layer that reads them leaves them out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import constant_of
from onnxcompress.surgery.operation import Operation


def gather(operation: Operation) -> int:
    """Put a Gather in front of every site that must read fewer positions than its activation has.

    Layers that read the same positions of the same value share one.

    Returns:
        The number of Gathers.
    """
    extent, tensors, twins = operation.extent, operation.tensors, operation.twins
    order = {node: number for number, node in enumerate(twins)}
    made: dict[tuple[ir.Value, int, bytes], ir.Value] = {}
    for node, slot, axis in sorted(extent.gathered, key=lambda place: (order[place[0]], *place[1:])):
        value = node.inputs[slot]
        assert value is not None
        present = extent.along(value, axis)
        wanted = extent.gathered[node, slot, axis]
        indices = np.flatnonzero(wanted if present is None else wanted[present])
        if len(indices) == (len(wanted) if present is None else int(present.sum())):
            continue
        twin = twins[node]
        source = twin.inputs[slot]
        assert source is not None
        key = (source, axis, indices.tobytes())
        if key not in made:
            start, indices = _before(source, axis, indices)
            # Names say what is chosen from, however often has been cut.
            chosen = tensors.new(f"{start.name}_kept", indices.astype(np.int32))
            # In front of the first reader: what is made later may be read by later nodes only.
            made[key] = tensors.node(twin, "Gather", [start, chosen], f"{start.name}_part", {"axis": axis})
            made[key].type = source.type
        twin.replace_input_with(slot, made[key])
    return len(made)


def _before(source: ir.Value, axis: int, indices: Array) -> tuple[ir.Value, Array]:
    """Return what to choose from, and which positions: past a Gather that an earlier cut has put there."""
    node = source.producer()
    if node is None or node.op_type != "Gather" or node.attributes.get_int("axis", 0) != axis:
        return source, indices
    value, earlier = node.inputs
    tensor = None if earlier is None else constant_of(earlier)
    if value is None or tensor is None or len(tensor.shape) != 1:
        return source, indices
    positions = np.asarray(tensor.numpy())
    # Negative positions count from an end that lies elsewhere without this Gather's own choice.
    return (value, positions[indices]) if (positions >= 0).all() else (source, indices)
