"""Class scores: outputs of which the graph itself shows that they weigh classes against each other.

A row of numbers an example may be that, or coordinates, an embedding, a forecast. Where softmax makes it, or
softmax or what takes the largest reads it, it is; a sigmoid or a threshold judges each number on its own.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxcompress.core.model import Model

_WEIGHS = frozenset(["Hardmax", "LogSoftmax", "Softmax"])

_CHOOSES = frozenset(["ArgMax", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "TopK", "ZipMap"])

_SAME = frozenset(["Cast", "Dropout", "Identity", "Squeeze", "Unsqueeze"])
"""Operators that leave the numbers of an example in their places, axes of length 1 aside."""

_USUAL_AXIS = {"ArgMax": 0}
"""Operators whose axis is the examples' where none is given."""


def shown(model: Model, outputs: Collection[str]) -> frozenset[str]:
    """Return those of these outputs, rows of numbers an example, that the graph shows to be class scores."""
    values = [value for value in model.ir.graph.outputs if value.name in outputs]
    return frozenset(value.name or "" for value in values if _weighed(value) or _chosen_from(value))


def _weighed(value: ir.Value) -> bool:
    """Tell whether softmax makes a value."""
    node = value.producer()
    while node is not None and node.op_type in _SAME and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type in _WEIGHS and not _over_examples(node)


def _chosen_from(value: ir.Value) -> bool:
    """Tell whether softmax, or what takes the largest, reads a value."""
    waiting, seen = [value], {value}
    while waiting:
        for node, slot in waiting.pop().uses():
            if slot:
                continue
            if node.op_type in _WEIGHS | _CHOOSES and not _over_examples(node):
                return True
            if node.op_type in _SAME | {"Flatten"} and node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                waiting.append(node.outputs[0])
    return False


def _over_examples(node: ir.Node) -> bool:
    """Tell whether an operator compares examples, along the first axis."""
    axis = node.attributes.get_int("axis", _USUAL_AXIS.get(node.op_type, -1))
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return axis == 0 or (shape is not None and axis == -len(shape))
