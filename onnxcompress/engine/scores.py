"""Scores: what decisions are made of, where no output of a model tells it.

A network that ends in ArgMax says which class, not how sure it is: there is nothing to train towards, and
nothing to measure small changes by. Nor can class labels be held to scores that are maps (ZipMap), or one
output for each class. A detector that hands out the boxes TopK or NonMaxSuppression chose says how sure it
is, but of what changes with every rounding: its real numbers are a decision as well. The values that a
decision is made of are the model's outputs, too, then, for everything that is done with it; the written file
has the outputs of the original.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir

from onnxcompress.core.model import FLOAT_TYPES, Model, constant_of
from onnxcompress.engine.same_way import same_way

_DECIDES = frozenset([
    "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression",
    "NonZero", "QuantizeLinear", "TopK", "ZipMap",
])  # fmt: skip
"""Operators that make whole numbers, truth values and maps of real numbers; Cast does so of some."""

_FIRST_ONLY = frozenset(["ArgMax", "ArgMin", "QuantizeLinear", "TopK"])

_SELECTS = {
    "Compress": (1,), "Gather": (1,), "GatherElements": (1,), "GatherND": (1,), "Scatter": (1,),
    "ScatterElements": (1,), "ScatterND": (1,), "Slice": (1, 2),
}  # fmt: skip
"""Operators that select, or place, what another input names: the slots of that."""

_PASSES = frozenset([
    "And", "ArrayFeatureExtractor", "Cast", "Concat", "Expand", "Flatten", "Identity", "LabelEncoder", "Not",
    "Or", "Reshape", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where", "Xor",
    "Abs", "Add", "Ceil", "Clip", "Div", "Exp", "Floor", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Pow",
    "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softmax", "Sqrt", "Sub", "Tanh",
])  # fmt: skip
"""Operators that rearrange decisions, put them together, scale them, or look up what they are called."""

_WHOLE = frozenset([
    "And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "NonMaxSuppression", "NonZero", "Not", "Or", "QuantizeLinear", "Shape", "Size", "Xor", "ZipMap",
])  # fmt: skip
"""Operators whose results are never real numbers."""

_CONTRACTS = frozenset(["Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"])

_ROUNDS = frozenset(["Binarizer", "Ceil", "Floor", "Round", "Sign"])
"""Operators whose results are real numbers in name only: no gradient passes them."""


class _Kinds:
    """Sorts the values of a graph, all in one pass.

    Attributes:
        given: those that hang on inputs, constants and shapes alone, and on no weight: compression leaves
            them as they are, so that what they select is no decision.
        whole: those that hold whole numbers, truth values or names.
        decided: those that are made of decisions alone, in whole numbers or real ones.
    """

    def __init__(self, graph: ir.Graph) -> None:
        first = [*graph.inputs, *graph.initializers.values()]
        self.given = set(first)
        self.whole = {value for value in first if not _is_real(value.dtype)}
        self.decided: set[ir.Value] = set()
        for node in graph:
            inputs = [value for value in node.inputs if value is not None]
            if node.op_type in ("Constant", "Shape", "Size") or (
                self.given.issuperset(inputs) and not _learned(node, inputs)
            ):
                self.given.update(node.outputs)
            self.whole.update(v for index, v in enumerate(node.outputs) if self._holds_whole(node, index))
            if self._decides(node, inputs):
                self.decided.update(value for value in node.outputs if value not in self.given)

    def _holds_whole(self, node: ir.Node, index: int) -> bool:
        value = node.outputs[index]
        tensor = constant_of(value)
        if value.dtype is not None or tensor is not None:
            return not _is_real(value.dtype if tensor is None else tensor.dtype)
        kind = node.attributes.get("to")
        if kind is not None:
            return not _is_real(ir.DataType(kind.as_int()))
        if node.op_type in _WHOLE or node.op_type == "TopK":
            return node.op_type != "TopK" or index == 1
        slot = 1 if node.op_type == "Where" else 0
        known = node.op_type in _PASSES or node.op_type in _SELECTS or node.op_type == "Range"
        return known and len(node.inputs) > slot and node.inputs[slot] in self.whole

    def _decides(self, node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
        if node.op_type in _DECIDES or (node.op_type == "Cast" and node.outputs[0] in self.whole):
            return True
        slots = _SELECTS.get(node.op_type, ())
        if any(v is not None and v not in self.given for s in slots for v in node.inputs[s : s + 1]):
            return True
        others = [value for value in inputs if value not in self.given]
        return bool(slots or node.op_type in _PASSES) and bool(others) and self.decided.issuperset(others)


def _is_real(kind: ir.DataType | None) -> bool:
    return kind is None or kind in FLOAT_TYPES


def _learned(node: ir.Node, inputs: Sequence[ir.Value]) -> bool:
    """Tell whether a node computes with weights, as far as that can be seen: then its results change."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _CONTRACTS:
        return True
    if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
        return True
    tensors = [tensor for value in inputs if (tensor := constant_of(value)) is not None]
    matrices = [t for t in tensors if sum(int(d) > 1 for d in t.shape.numpy()) > 1]
    return any(_is_real(t.dtype) or t.dtype.bitwidth <= 8 for t in matrices)


def decided(model: Model) -> frozenset[str]:
    """Return the outputs that hold nothing but decisions, or what decisions select."""
    found = _Kinds(model.ir.graph).decided
    return frozenset(value.name or "" for value in model.ir.graph.outputs if value in found)


def ways(model: Model, outputs: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return the outputs that are decided by other outputs alone, each with these.

    Args:
        model: the model.
        outputs: those to look at; None: all that hold nothing but decisions, or what decisions select.
    """
    own = {value.name for value in model.ir.graph.outputs}
    looked_at = decided(model) if outputs is None else outputs
    found = {name: deciding(model, [name], own=True) for name in looked_at}
    return {name: ends for name, ends in found.items() if ends and own.issuperset(ends)}


def made_alike(one: ir.Model, other: ir.Model, ways: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Return the outputs that two models make of others in the same way: right where these are right.

    Args:
        one: a model.
        other: another, its outputs named alike.
        ways: output name -> the outputs it is decided by.
    """
    return frozenset(name for name, ends in ways.items() if same_way(one, other, name, ends))


def deciding(model: Model, outputs: Collection[str], *, own: bool = False) -> tuple[str, ...]:
    """Return the real numbers that these outputs are decided by, and select from, nearest first.

    Args:
        model: the model.
        outputs: names of outputs that are decisions, or of types that only decisions have.
        own: also those that are outputs already.
    """
    hidden = set() if own else {value.name for value in model.ir.graph.outputs}
    return tuple(name for name in _behind(model, outputs) if name not in hidden)


def _behind(model: Model, outputs: Collection[str]) -> tuple[str, ...]:
    kinds = _Kinds(model.ir.graph)
    found: dict[str, None] = {}
    waiting = [value for value in model.ir.graph.outputs if value.name in outputs]
    seen = set(waiting)
    while waiting:
        node = waiting.pop(0).producer()
        if node is None or node.op_type not in _DECIDES | _PASSES | _SELECTS.keys():
            continue
        for value in _read(node):
            if value in kinds.given or value in seen:
                continue
            if value in kinds.decided or value in kinds.whole:
                seen.add(value)
                waiting.append(value)
            else:
                found.setdefault(_before_rounding(value).name or "")
    return tuple(name for name in found if name)


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield what a node reads of the data; of ArgMax and its like the first input only."""
    slots = slice(1) if node.op_type in _FIRST_ONLY else slice(None)
    yield from (value for value in node.inputs[slots] if value is not None)


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
