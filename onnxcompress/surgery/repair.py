"""One node of a cut graph while its operator's rule repairs it: the surgeon's side of the coupling rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import constant_of
from onnxcompress.couplings._base import COUPLINGS, Cut
from onnxcompress.engine.measures.costs import as_node
from onnxcompress.ops._base import Node, Shape
from onnxcompress.surgery.extent import Extent
from onnxcompress.surgery.operation import Operation
from onnxcompress.surgery.sizes import constant_target, mixed_shape


def repair(operation: Operation) -> None:
    """Repair every node that reads or gives something that was cut."""
    extent = operation.extent
    opsets = extent.channels.model.ir.opset_imports
    for node, twin in operation.twins.items():
        coupling = COUPLINGS.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if coupling is not None and coupling.repair is not None and _touched(extent, node):
            coupling.repair(NodeCut(operation, as_node(node, opsets), node, twin))


def _touched(extent: Extent, node: ir.Node) -> bool:
    if any(place[0] is node for place in extent.gathered):
        return True
    return any(v is not None and v.name and extent.axes(v) for v in (*node.inputs, *node.outputs))


class NodeCut(Cut):
    """One node; ``source`` is the clone's, shapes and values are looked up by the analysed one."""

    def __init__(self, operation: Operation, node: Node, analysed: ir.Node, twin: ir.Node) -> None:
        self.node, self.source, self._analysed = node, twin, analysed
        self._operation, self._extent, self._tensors = operation, operation.extent, operation.tensors

    def keep(self, slot: int, axis: int) -> Array | None:
        """Return which positions of an input's axis stay, as bool; None where all do."""
        value = self._input(slot)
        if value is None:
            return None
        return self._extent.read(self._analysed, slot, axis % max(1, len(self.shape(slot))))

    def keep_out(self, output: int, axis: int) -> Array | None:
        """Return which positions of an output's axis stay, as bool; None where all do."""
        value = self._output(output)
        if value is None:
            return None
        return self._extent.along(value, axis % max(1, len(self.out_shape(output))))

    def shape(self, slot: int) -> Shape:
        """Return the shape of an input before the cut."""
        value = self._input(slot)
        assert value is not None, f"input {slot} is left out"
        shape = self._extent.shape(value)
        assert shape is not None, f"the shape of {value.name!r} is not known"
        return shape

    def out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output before the cut."""
        value = self._output(output)
        assert value is not None, f"output {output} is left out"
        shape = self._extent.shape(value)
        assert shape is not None, f"the shape of {value.name!r} is not known"
        return shape

    def cut_shape(self, slot: int) -> Shape:
        """Return the shape of an input after the cut."""
        shape = self.shape(slot)
        kept = [self.keep(slot, axis) for axis in range(len(shape))]
        return tuple(d if mask is None else int(mask.sum()) for d, mask in zip(shape, kept, strict=True))

    def cut_out_shape(self, output: int = 0) -> Shape:
        """Return the shape of an output after the cut."""
        shape = self.out_shape(output)
        kept = [self.keep_out(output, axis) for axis in range(len(shape))]
        return tuple(d if mask is None else int(mask.sum()) for d, mask in zip(shape, kept, strict=True))

    def is_dynamic(self, output: int, axis: int) -> bool:
        """Tell whether an output's length along an axis depends on the sizes the model is fed with."""
        value = self._output(output)
        assert value is not None
        return self._extent.channels.is_dynamic(value.name or "", axis % max(1, len(self.out_shape(output))))

    def constant(self, slot: int) -> Array | None:
        """Return an input's value before the cut where no data reaches it."""
        value = self._input(slot)
        return None if value is None else self._extent.channels.constant(value.name or "")

    def set_input(self, slot: int, array: Array) -> None:
        """Give the node a constant of its own; one that only it reads keeps its name."""
        twin = self.source
        if len(twin.inputs) <= slot:
            twin.resize_inputs(slot + 1)
        present = twin.inputs[slot]
        tensor = None if present is None else constant_of(present)
        dtype = ir.DataType.from_numpy(np.asarray(array).dtype)
        if (
            present is not None
            and tensor is not None
            and tensor.dtype == dtype
            and self._tensors.own(present)
        ):
            self._tensors.set(present, np.asarray(array))
            return
        base = present.name if present is not None and present.name else f"{twin.outputs[0].name}_{slot}"
        twin.replace_input_with(slot, self._tensors.new(f"{base}_cut", np.asarray(array)))

    def set_target_shape(self, slot: int, output: int = 0) -> None:
        """Let the shape vector at an input name the output's shape after the cut."""
        target = self.cut_out_shape(output)
        varying = np.array([self.is_dynamic(output, axis) for axis in range(len(target))], bool)
        reshapes = self.node.op_type == "Reshape"
        given = self._fixed(slot)
        if given is not None:
            zero_copies = reshapes and not self.node.get("allowzero", 0)
            copied = self.cut_shape(0) if zero_copies else None
            self.set_input(slot, constant_target(given, target, varying, copied))
            return
        known = np.array(target, np.int64)
        if reshapes and varying.sum() == 1 and known[~varying].all():
            self.set_input(slot, np.where(varying, -1, known))
        elif not varying.any():
            self.set_input(slot, known)
        else:
            computed = self.source.inputs[slot]
            assert computed is not None
            mixed = mixed_shape(self._operation, known, varying, computed, self.source)
            self.source.replace_input_with(slot, mixed)

    def set_attribute(self, name: str, value: Any) -> None:
        """Set an attribute; None removes it."""
        if value is None:
            self.source.attributes.pop(name, None)
            return
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if isinstance(value, np.generic):
            value = value.item()
        (attribute,) = ir.convenience.convert_attributes({name: value})
        self.source.attributes[name] = attribute

    def _fixed(self, slot: int) -> Array | None:
        """Return the shape vector an input holds as it stands in the file; None where it is computed."""
        value = self._input(slot)
        tensor = None if value is None else constant_of(value)
        return None if tensor is None else np.asarray(tensor.numpy())

    def _input(self, slot: int) -> ir.Value | None:
        return self._analysed.inputs[slot] if slot < len(self._analysed.inputs) else None

    def _output(self, output: int) -> ir.Value | None:
        outputs = self._analysed.outputs
        return outputs[output] if output < len(outputs) and outputs[output].name else None
