"""Factoring: where a weight is stored as two factors, the nodes that use it become two layers each.

``y = x (A B)`` becomes ``h = x A`` and ``y = h B``; a convolution becomes one with as many channels as the
rank and one from there on: whole kernel and 1×1, or 1×kw and kh×1. Zeros that a convolution pads with stay
zeros in between, because the first of both has no bias. Later methods see two ordinary layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Home, Model, Weight
from onnxcompress.core.refusal import Refusal
from onnxcompress.encodings.lowrank import LowRank
from onnxcompress.engine.factors import CONVOLUTION, PRODUCT, ROWS, TRANSPOSED, Use, ways
from onnxcompress.engine.operands import attribute
from onnxcompress.surgery.tensors import Tensors

Form = Literal["plain", "transposed", "kernel"]


@dataclass(frozen=True)
class Factored:
    """One weight that became two.

    Attributes:
        encoding: what it was.
        left: name of the weight that is the left factor.
        right: name of the one that is the right factor.
        forms: how both lie in the file: as in the encoding, transposed, or out × rank × kernel.
        places: outputs of the nodes that used the weight: what they give must not change.
    """

    encoding: LowRank
    left: str
    right: str
    forms: tuple[Form, Form]
    places: tuple[str, ...]

    def factors(self, left: Array, right: Array) -> tuple[Array, Array]:
        """Return the factors as (n, r) and (r, m) matrices, from the two weights as they lie in the file."""
        forms, rank = self.forms, left.shape[1] if self.forms[0] in ("plain", "kernel") else left.shape[0]
        if forms[0] == "kernel":
            left = np.moveaxis(left, 1, -1)
        left = left.reshape(rank, -1).T if forms[0] == "transposed" else left.reshape(-1, rank)
        return left, right.T if forms[1] == "transposed" else right.reshape(rank, -1)


@dataclass(frozen=True, eq=False)
class FactoredModel:
    """A model with two layers for every one whose weight is low-rank.

    Attributes:
        model: the model.
        layers: weight name -> what it became.
        kept: low-rank weights that stay one, stored as factors, with the reason.
        warnings: sentences the user must see.
    """

    model: Model
    layers: Mapping[str, Factored]
    kept: tuple[Refusal, ...]
    warnings: tuple[str, ...]


def factor(model: Model) -> FactoredModel:
    """Return a clone in which the users of low-rank weights are two layers each."""
    clone = Model(model.ir.clone(), model.source, model.encodings, model.steps)
    names = Tensors(clone)
    layers: dict[str, Factored] = {}
    kept, inputs = [], []
    for name, encoding in model.encodings.items():
        if not isinstance(encoding, LowRank):
            continue
        weight = clone.weights[name]
        found = ways(weight)
        if isinstance(found, str) or not found.allows(encoding.layout):
            why = found if isinstance(found, str) else "is used as another matrix than it is stored as"
            kept.append(Refusal(name, why))
            continue
        if weight.value.is_graph_input():
            inputs.append(name)
        layers[name] = _Layer(clone.ir, weight, encoding, names).split(found.uses)
    encodings = {n: e for n, e in model.encodings.items() if n not in layers}
    result = Model(clone.ir, model.source, encodings, model.steps)
    warnings = [_told_kept(kept)] if kept else []
    if inputs and (clone.ir.ir_version or 0) >= _INITIALIZERS_ALONE:
        shown = ", ".join(f"'{n}'" for n in inputs[:3]) + (" …" if len(inputs) > 3 else "")
        warnings.append(
            f"{len(inputs)} weights were also optional inputs of the model and are constants now: {shown}"
        )
    return FactoredModel(result, layers, tuple(kept), tuple(warnings))


def _told_kept(kept: Sequence[Refusal]) -> str:
    reasons = "; ".join(f"'{r.where}' {r.why}" for r in kept[:3]) + ("; …" if len(kept) > 3 else "")
    count = "1 weight stays" if len(kept) == 1 else f"{len(kept)} weights stay"
    return f"{count} one layer, stored as two factors: the file is smaller, nothing is faster ({reasons})"


_INITIALIZERS_ALONE = 4
"""From this version of the file format on, initializers need not be inputs of the graph."""


class _Layer:
    """The work on one weight."""

    def __init__(self, model: ir.Model, weight: Weight, encoding: LowRank, names: Tensors) -> None:
        self._weight, self._encoding, self._names = weight, encoding, names
        old = (model.ir_version or 0) < _INITIALIZERS_ALONE
        self._constants = old or weight.home is Home.CONSTANT
        self._made: dict[str, tuple[ir.Value, Form]] = {}

    def split(self, uses: Sequence[Use]) -> Factored:
        """Replace all uses and remove the weight; return what it became."""
        before = [use.node.inputs[use.slot] for use in uses]
        places = [use.node.outputs[0].name or "" for use in uses]
        for use in uses:
            if use.kind == CONVOLUTION:
                self._convolution(use.node)
            elif use.kind == TRANSPOSED:
                self._transposed(use.node)
            elif use.kind == ROWS:
                self._rows(use)
            else:
                assert use.kind == PRODUCT
                self._product(use)
        for value in before:
            _drop(value)
        (left, left_form), (right, right_form) = self._made["left"], self._made["right"]
        path = self._weight.name.removesuffix(self._weight.value.name or "")
        names = f"{path}{left.name}", f"{path}{right.name}"
        return Factored(self._encoding, *names, (left_form, right_form), tuple(places))

    # kinds of uses -----------------------------------------------------------------------------------------

    def _convolution(self, node: ir.Node) -> None:
        """Split the positions of the kernel between both, with their strides, pads and dilations."""
        encoding, layout = self._encoding, self._encoding.layout
        shape, rank = encoding.shape, encoding.rank
        spatial = range(2, len(shape))
        first = (rank, shape[1], *(shape[a] if a in layout.columns else 1 for a in spatial))
        second = (shape[0], *(shape[a] if a in layout.rows else 1 for a in spatial), rank)
        inner = self._kernel("right", encoding.right.reshape(first), "plain")
        outer = self._kernel("left", np.moveaxis(encoding.left.reshape(second), -1, 1), "kernel")
        parts = [_window(node, shape, side) for side in (layout.columns, layout.rows)]
        between = self._before(node, "Conv", [node.inputs[0], inner], parts[0])
        node.replace_input_with(0, between)
        node.replace_input_with(1, outer)
        for name, value in parts[1].items():
            node.attributes[name] = ir.convenience.convert_attribute(name, value)

    def _transposed(self, node: ir.Node) -> None:
        """Put a 1×1 convolution in front, where the picture is small."""
        encoding = self._encoding
        ones = (1,) * (len(encoding.shape) - 2)
        inner = self._kernel("left", encoding.left.T.reshape(encoding.rank, -1, *ones), "transposed")
        outer = self._kernel("right", encoding.right.reshape(encoding.rank, *encoding.shape[1:]), "plain")
        node.replace_input_with(0, self._before(node, "Conv", [node.inputs[0], inner], {}))
        node.replace_input_with(1, outer)

    def _rows(self, use: Use) -> None:
        """Look rows up in the one factor, and multiply them with the other."""
        node, (left, right) = use.node, self._sides(use)
        node.replace_input_with(0, self._matrix(*left, node))
        output, name = node.outputs[0], node.outputs[0].name
        made = ir.Node("", "MatMul", [output, self._matrix(*right, node)], num_outputs=1)
        made.name = self._names.free_name(f"{node.name or name}_out")
        node.append(made)
        result = made.outputs[0]
        result.type, result.shape, output.shape = output.type, output.shape, None
        for reader, slot in [(r, s) for r, s in output.uses() if r is not made]:
            reader.replace_input_with(slot, result)
        self._names.swap(output, result)

    def _product(self, use: Use) -> None:
        """Multiply with the one factor in a MatMul of its own, with the other in the node."""
        node, slot, (left, right) = use.node, use.slot, self._sides(use)
        flips = bool(attribute(node, "transB" if slot else "transA", 0)) and node.op_type == "Gemm"
        if flips:  # S = P Q is multiplied as Sᵀ = Qᵀ Pᵀ
            left, right = _flipped(right), _flipped(left)
        near, far = (left, right) if slot else (right, left)
        data = node.inputs[1 - slot]
        own = "transA" if slot else "transB"
        if node.op_type == "Gemm" and attribute(node, own, 0):
            data = self._before(node, "Transpose", [data], {"perm": [1, 0]})
            node.attributes.pop(own)
        factor = self._matrix(*near, node)
        between = self._before(node, "MatMul", [data, factor] if slot else [factor, data], {})
        node.replace_input_with(1 - slot, between)
        node.replace_input_with(slot, self._matrix(*(_flipped(far) if flips else far), node))

    def _sides(self, use: Use) -> tuple[_Side, _Side]:
        """Return P and Q of the matrix P Q that a node sees."""
        if use.seen == self._encoding.layout:
            return ("left", False), ("right", False)
        return ("right", True), ("left", True)

    # nodes and tensors -------------------------------------------------------------------------------------

    def _before(
        self, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, Any]
    ) -> ir.Value:
        """Insert the first of two layers in front of the second, which keeps the node's name."""
        converted = ir.convenience.convert_attributes(dict(attributes))
        made = ir.Node("", op_type, list(inputs), converted, num_outputs=1)
        output = node.outputs[0]
        made.name = self._names.free_name(f"{node.name or output.name}_in")
        made.outputs[0].name = self._names.free_name(f"{output.name}_in")
        made.outputs[0].type = output.type
        node.graph.insert_before(node, made)  # type: ignore[union-attr]
        return made.outputs[0]

    def _matrix(self, which: str, transposed: bool, before: ir.Node) -> ir.Value:
        """Return a factor, transposed or not; the second time in another form by a Transpose."""
        form: Form = "transposed" if transposed else "plain"
        if which not in self._made:
            array = self._encoding.left if which == "left" else self._encoding.right
            self._made[which] = self._constant(array.T if transposed else array), form
        value, there = self._made[which]
        return value if there == form else self._before(before, "Transpose", [value], {"perm": [1, 0]})

    def _kernel(self, which: str, array: Array, form: Form) -> ir.Value:
        if which not in self._made:
            self._made[which] = self._constant(array), form
        return self._made[which][0]

    def _constant(self, array: Array) -> ir.Value:
        """Return a new constant where the weight is, named after it: what data meets first is its ``_in``."""
        graph, weight = self._weight.graph, self._weight.value
        name = self._names.free_name(f"{weight.name}_{'out' if self._made else 'in'}")
        tensor = ir.Tensor(np.ascontiguousarray(array), dtype=ir.DataType.from_numpy(array.dtype), name=name)
        if self._constants:
            made = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1, name=name)
            producer = weight.producer()
            graph.insert_before(graph[0] if producer is None else producer, made)
            value = made.outputs[0]
            value.name = name
        else:
            value = ir.Value(name=name, const_value=tensor)
            graph.register_initializer(value)
        value.shape, value.dtype = ir.Shape(array.shape), tensor.dtype
        return value


_Side = tuple[str, bool]
"""``"left"`` or ``"right"``, and whether transposed."""


def _flipped(side: _Side) -> _Side:
    return side[0], not side[1]


def _window(node: ir.Node, shape: tuple[int, ...], own: Sequence[int]) -> dict[str, Any]:
    """Return the attributes of a convolution over the axes of the kernel that are its own."""
    axes = range(2, len(shape))
    count = len(axes)

    def of(name: str, default: int) -> list[int]:
        given = attribute(node, name, None) or [default] * count
        return [int(d) if a in own else default for a, d in zip(axes, given, strict=True)]

    found: dict[str, Any] = {
        "kernel_shape": [shape[a] if a in own else 1 for a in axes],
        "strides": of("strides", 1),
        "dilations": of("dilations", 1),
    }
    if (auto := attribute(node, "auto_pad", "NOTSET")) != "NOTSET":
        found["auto_pad"] = auto  # a kernel of one position is not padded whatever it says
    else:
        pads = [int(p) for p in attribute(node, "pads", None) or [0] * 2 * count]
        found["pads"] = [p if axes[i % count] in own else 0 for i, p in enumerate(pads)]
    return found


def _drop(value: ir.Value | None) -> None:
    """Remove a constant that nothing reads any more, and what made it."""
    if value is None or value.uses() or value.is_graph_output():
        return
    node, graph = value.producer(), value.graph
    if node is not None and node.graph is not None:
        inputs = list(node.inputs)
        node.graph.remove(node, safe=True)
        for before in inputs:
            _drop(before)
    elif isinstance(graph, ir.Graph) and value.is_initializer():
        for index, known in enumerate(graph.inputs):
            if known is value:
                graph.inputs.pop(index)
                break
        del graph.initializers[value.name or ""]


def multiplied(model: Model, layers: Mapping[str, Factored]) -> tuple[Model, list[str]]:
    """Return the model with these weights computed from their factors, and the names of the factors.

    In float64 the product is exact there, so that what the factored model computes can be compared closely.
    """
    clone = Model(model.ir.clone(), model.source, model.encodings, model.steps)
    names, added = Tensors(clone), []
    for name, layer in layers.items():
        weight, encoding = clone.weights[name], layer.encoding
        value, graph = weight.value, weight.graph
        factors = []
        for factor in (encoding.left, encoding.right):
            label = names.free_name(f"{value.name}_factor")
            made = ir.Value(name=label, const_value=ir.tensor(factor, name=label))
            made.shape, made.dtype = ir.Shape(factor.shape), ir.DataType.from_numpy(factor.dtype)
            graph.register_initializer(made)
            factors.append(made)
            added.append(label if name == value.name else f"{name.removesuffix(value.name or '')}{label}")
        dealt = [encoding.shape[a] for a in (*encoding.layout.rows, *encoding.layout.columns)]
        label = names.free_name(f"{value.name}_dealt")
        shape = ir.Value(name=label, const_value=ir.tensor(np.array(dealt, np.int64), name=label))
        graph.register_initializer(shape)
        nodes = [ir.Node("", "MatMul", factors)]
        nodes.append(ir.Node("", "Reshape", [nodes[-1].outputs[0], shape]))
        order = ir.convenience.convert_attributes({"perm": list(encoding.layout.order)})
        nodes.append(ir.Node("", "Transpose", [nodes[-1].outputs[0]], order))
        for node in nodes:
            node.outputs[0].name = names.free_name(f"{value.name}_product")
        graph.insert_before(graph[0], nodes)
        value.replace_all_uses_with(nodes[-1].outputs[0])
    clone.ir.ir_version = max(clone.ir.ir_version or 0, _INITIALIZERS_ALONE)
    return Model(clone.ir, model.source, model.encodings, model.steps), added
