"""Shifts: constants that are subtracted from a layer's input go into its bias.

``fold_shifts`` removes constants that are subtracted from (or added to) a layer's input, the mean image of a
preprocessing step for example: ``W(x − c) + b = Wx + (b − Wc)``. With compressed weights such a constant is
often the largest tensor left in the file. It is folded *after* the weights were decided, with the weights as
they are stored, so that their quantisation error still acts on the centred input.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model, constant_of

LEAST_ELEMENTS = 64
"""Smaller constants are left where they are: nothing would be saved."""


@dataclass(frozen=True)
class Fold:
    """One constant folded away: its name, its number of elements, and the bias that took it in."""

    constant: str
    elements: int
    bias: str


@dataclass(frozen=True)
class _Site:
    """A Sub or Add in front of a Gemm, with everything that changes."""

    shift: ir.Node
    gemm: ir.Node
    data: ir.Value
    constant: ir.Value
    bias: ir.Value


def fold_shifts(model: Model) -> tuple[Model, tuple[Fold, ...]]:
    """Return the model with shifts of layer inputs folded into biases, and what was folded.

    Only where it is exact up to rounding and touches nothing else: a Gemm with a constant weight and bias,
    fed by a Sub or Add of a constant that, like the bias, nothing else uses. The model is returned as it is
    where there is no such place.
    """
    if not any(_site(node, model) for node in model.ir.graph):
        return model, ()
    model = replace(model, ir=model.ir.clone())
    graph, encodings, folds = model.ir.graph, dict(model.encodings), []
    for node in list(graph):
        site = _site(node, model)
        if site is None:
            continue
        folds.append(Fold(site.constant.name or "", _array(site.constant).size, site.bias.name or ""))
        bias = _folded_bias(site, model)
        site.bias.const_value = ir.Tensor(bias, name=site.bias.name)
        site.gemm.replace_input_with(0, site.data)
        graph.remove(site.shift, safe=True)
        del graph.initializers[site.constant.name or ""]
        # What training changed and left dense is told as an encoding; the graph holds both values now.
        for value in (site.bias, site.constant):
            encodings.pop(value.name or "", None)
    return replace(model, encodings=encodings), tuple(folds)


def _site(shift: ir.Node, model: Model) -> _Site | None:
    if shift.op_type not in ("Sub", "Add") or shift.domain not in ("", "ai.onnx") or len(shift.inputs) != 2:
        return None
    first, second = shift.inputs
    if first is None or second is None:
        return None
    # c − x is not a shift of x; c + x is.
    pairs = [(first, second)] if shift.op_type == "Sub" else [(first, second), (second, first)]
    found = next(((x, c) for x, c in pairs if _own_constant(c) and constant_of(x) is None), None)
    uses = list(shift.outputs[0].uses())
    if found is None or len(uses) != 1 or shift.outputs[0].is_graph_output():
        return None
    data, constant = found
    gemm, slot = uses[0]
    if gemm.op_type != "Gemm" or gemm.domain not in ("", "ai.onnx") or slot != 0 or len(gemm.inputs) != 3:
        return None
    weight, bias = gemm.inputs[1], gemm.inputs[2]
    if weight is None or bias is None or constant_of(weight) is None or not _own_constant(bias):
        return None
    plain = all(_number(gemm, name, default) == default for name, default in _PLAIN.items())
    inputs = _weight_matrix(gemm, model).shape[1]
    shape, bias_shape = _array(constant).shape, _array(bias).shape
    fits = shape in ((inputs,), (1, inputs)) and inputs >= LEAST_ELEMENTS and len(bias_shape) <= 2
    named = constant.name in model.weights and bias.name in model.weights
    if not (plain and fits and named and _is_dense(constant, model) and _is_dense(bias, model)):
        return None
    return _Site(shift, gemm, data, constant, bias)


_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0}
"""Attributes of Gemm for which it is ``xW + b``."""


def _own_constant(value: ir.Value) -> bool:
    """Tell whether a value is an initializer that only one node uses and no caller can replace."""
    single = len(list(value.uses())) == 1 and not value.is_graph_output()
    return single and value.is_initializer() and not value.is_graph_input() and constant_of(value) is not None


def _is_dense(value: ir.Value, model: Model) -> bool:
    encoding = model.encodings.get(value.name or "")
    return encoding is None or encoding.kind == "dense"


def _array(value: ir.Value) -> Array:
    tensor = constant_of(value)
    assert tensor is not None
    return np.asarray(tensor.numpy())


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _weight_matrix(gemm: ir.Node, model: Model) -> Array:
    """Return the weight as ``out in``."""
    weight = gemm.inputs[1]
    assert weight is not None
    assert weight.name is not None
    array = model.array(weight.name) if weight.name in model.encodings else _array(weight)
    return array if _number(gemm, "transB", 0) else array.T


def _folded_bias(site: _Site, model: Model) -> Array:
    shift = (
        _weight_matrix(site.gemm, model).astype(np.float64) @ _array(site.constant).astype(np.float64).ravel()
    )
    bias = _array(site.bias)
    sign = -1.0 if site.shift.op_type == "Sub" else 1.0
    return np.asarray(bias.astype(np.float64) + sign * shift).astype(bias.dtype)
