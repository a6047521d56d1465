"""Batch normalisation in training mode: it normalises by its own input and moves its statistics in place."""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.surgery.lossless.workpiece import number


def trains(node: ir.Node, opset: int) -> bool:
    """Tell whether a node is a BatchNormalization that normalises by its own input.

    Operator set 14 has an attribute for it. Before it further outputs asked for it, before 7 a missing
    ``is_test``.
    """
    if node.op_type != "BatchNormalization":
        return False
    if opset >= 14:
        return bool(number(node, "training_mode", 0))
    return len(node.outputs) > 1 if opset >= 7 else not number(node, "is_test", 0)
