"""Class scores: outputs of which something shows that they weigh classes against each other, or do not.

A row of numbers an example may be that, or coordinates, an embedding, a forecast. Where softmax makes it, or
softmax or what takes the largest reads it, it is; a sigmoid or a threshold judges each number on its own, and
what is divided by its length is a direction. Labels, and the loss that is asked for, may tell as well.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from onnxcompress.core.model import Model
from onnxcompress.core.task import Task

_WEIGHS = frozenset(["Hardmax", "LogSoftmax", "Softmax"])

_CHOOSES = frozenset(["ArgMax", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "TopK", "ZipMap"])

_SAME = frozenset(["Cast", "Dropout", "Identity", "Squeeze", "Unsqueeze"])
"""Operators that leave the numbers of an example in their places, axes of length 1 aside."""

_USUAL_AXIS = {"ArgMax": 0}
"""Operators whose axis is the examples' where none is given."""


_SINGLE = frozenset(["HardSigmoid", "Sigmoid"])
"""Operators that make probabilities of what may be true of an example beside anything else."""

_RESHAPING = frozenset(["DequantizeLinear", "Flatten", "QuantizeLinear", "Reshape", "Transpose"])
"""Operators behind which each number is what it was before, if elsewhere."""

_GUARDED = frozenset(["Add", "Cast", "Clip", "Expand", "Identity", "Max", "Reshape", "Sqrt", "Unsqueeze"])
"""Operators that keep a length from zero, or give it the shape of what is divided by it."""


def shown(model: Model, outputs: Collection[str]) -> frozenset[str]:
    """Return those of these outputs, rows of numbers an example, that the graph shows to be class scores."""
    values = [value for value in model.ir.graph.outputs if value.name in outputs]
    return frozenset(value.name or "" for value in values if _weighed(value) or _chosen_from(value))


def weighed(model: Model, output: str) -> bool:
    """Tell whether softmax makes an output, so that the graph shows what a row of it is."""
    return any(value.name == output and _weighed(value) for value in model.ir.graph.outputs)


def unranked(model: Model, task: Task | None) -> frozenset[str]:
    """Return the outputs of which something shows that no number of a row is the answer by being the largest.

    What the labels of an output are counts most, unless softmax makes it, or what takes the largest reads it:
    those of softmax may be probabilities. Without labels the loss and the metric tell that were asked for,
    then the graph. An output that nothing tells of is not among them.

    Args:
        model: the graph.
        task: whose labels, loss and metric tell; None: none do.
    """
    names = {value.name or "" for value in model.ir.graph.outputs}
    scores = shown(model, names)
    targets = getattr(task.samples, "targets", None) if task is not None and task.labelled else None
    labelled = {targets.output} & names if targets is not None else set()
    asked = None if task is None else _asked(task)
    if asked is None:
        made = (v for v in model.ir.graph.outputs if _judged_singly(v) or _divided_by_length(v))
        other = {value.name or "" for value in made}
    else:
        other = set() if asked else names
    if targets is not None:
        other = (other - labelled) | (labelled if targets.kind == "values" else set())
    return frozenset(other - scores)


def _asked(task: Task) -> bool | None:
    """Tell whether the loss or the metric that was asked for is one of class scores; None: they do not say.

    With labels the loss is, first of all, that of their output, and says nothing of others.
    """
    if task.metric in ("agreement", "relative_l2"):
        return task.metric == "agreement"
    if task.labelled or not task.loss_named or not isinstance(task.loss, str):
        return None
    return "kl" in task.loss


def _judged_singly(value: ir.Value) -> bool:
    """Tell whether a sigmoid makes each number of a value."""
    waiting, seen = [value], {value}
    while waiting:
        node = waiting.pop().producer()
        if node is None or node.op_type not in _SINGLE | _SAME | _RESHAPING | {"Concat"}:
            return False
        if node.op_type not in _SINGLE:
            passed = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            waiting += [v for v in passed if v is not None and v not in seen]
            seen.update(v for v in passed if v is not None)
    return True


def _divided_by_length(value: ir.Value) -> bool:
    """Tell whether a value is divided by its own Euclidean length."""
    node = _made_by(value, _SAME)
    if node is None or node.op_type != "Div":
        return node is not None and node.op_type == "LpNormalization"
    divided, length = node.inputs
    by = _made_by(length, _GUARDED)
    return by is not None and by.op_type in ("ReduceL2", "ReduceSumSquare") and by.inputs[0] is divided


def _made_by(value: ir.Value | None, passing: Collection[str]) -> ir.Node | None:
    """Return the operator that makes a value, found through ``passing`` ones along their first input."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in passing and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _weighed(value: ir.Value) -> bool:
    """Tell whether softmax makes a value."""
    node = _made_by(value, _SAME)
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
