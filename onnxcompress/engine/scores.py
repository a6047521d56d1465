"""Scores: what decisions are made of, where no output of a model tells it.

A network that ends in ArgMax says which class, not how sure it is: there is nothing to train towards, and
nothing to measure small changes by. Nor can class labels be held to scores that are maps (ZipMap), or one
output for each class. The values that the decision is made of are the model's outputs as well, then, for
everything that is done with it; the written file has the outputs of the original.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx_ir as ir

from onnxcompress.core.model import Model, constant_of

_DECIDES = frozenset([
    "ArgMax", "ArgMin", "Cast", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression",
    "QuantizeLinear", "TopK", "ZipMap",
])  # fmt: skip
"""Operators that make whole numbers, truth values and maps of real numbers; Cast does so of some."""

_FIRST_ONLY = frozenset(["ArgMax", "ArgMin", "QuantizeLinear", "TopK"])

_PASSES = frozenset([
    "And", "Cast", "Concat", "Equal", "Flatten", "Gather", "Identity", "Not", "Or", "Reshape", "Squeeze",
    "Transpose", "Unsqueeze", "Where", "Xor", "ArrayFeatureExtractor", "LabelEncoder",
])  # fmt: skip
"""Operators that rearrange decisions, put them together, or look up what they are called."""

_ROUNDS = frozenset(["Binarizer", "Ceil", "Floor", "Round", "Sign"])
"""Operators whose results are real numbers in name only: no gradient passes them."""


def deciding(model: Model, outputs: Collection[str]) -> tuple[str, ...]:
    """Return the values that these outputs are decided by, nearest first, of whatever type they are."""
    found: dict[str, None] = {}
    waiting = [value for value in model.ir.graph.outputs if value.name in outputs]
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0).producer()
        if node is None or node.op_type not in _DECIDES | _PASSES:
            continue
        for value in _read(node):
            if node.op_type in _DECIDES:
                found.setdefault(_before_rounding(value).name or "")
            if node.op_type in _PASSES and value not in seen:
                seen.add(value)
                waiting.append(value)
    own = {value.name for value in model.ir.graph.outputs}
    return tuple(name for name in found if name and name not in own)


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads of the data; of ArgMax and its like the first input only."""
    slots = slice(1) if node.op_type in _FIRST_ONLY else slice(None)
    for value in node.inputs[slots]:
        if value is not None and constant_of(value) is None and not value.is_graph_input():
            yield value


def _before_rounding(value: ir.Value) -> ir.Value:
    producer = value.producer()
    while producer is not None and producer.op_type in _ROUNDS and producer.inputs[0] is not None:
        value = producer.inputs[0]
        producer = value.producer()
    return value


def revealed(model: Model, names: Sequence[str]) -> Model:
    """Return a clone of which these values of the main graph are outputs, too, behind its own."""
    clone = model.ir.clone()
    made = {value.name: value for node in clone.graph for value in node.outputs}
    clone.graph.outputs.extend(made[name] for name in names)
    return Model(clone, model.source, model.encodings, model.steps)


def concealed(model: Model, names: Sequence[str]) -> Model:
    """Return a clone of which these values are no outputs."""
    if not names:
        return model
    clone = model.ir.clone()
    for value in [v for v in clone.graph.outputs if v.name in names]:
        clone.graph.outputs.remove(value)
    return Model(clone, model.source, model.encodings, model.steps)
