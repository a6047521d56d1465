"""Layers whose weights can take in what is multiplied and added beside them: Conv, Gemm, MatMul."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.surgery.lossless.workpiece import Workpiece, number, plain

_TRANSPOSED = "the layer behind it reads its input transposed"
_ENCODED = "the layer's weight is stored compressed"
_SHARED = "the layer's weight is used elsewhere too"
_REPLACEABLE = "the layer's weight is an input that a caller may replace; --freeze-inputs makes it a constant"


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer: ``weights`` as groups x outputs of a group x inputs of a group x taps, in float64.

    Attributes:
        node: its node.
        weight: the value of its weight.
        weights: what that holds, in the order above.
        bias: its bias in float64, one number an output; None: it has none.
        bias_value: the value that holds it; of a MatMul, in the Add behind it.
        dtype: storage type.
        out_axis, in_axis: axes along which outputs and inputs lie in what it gives and reads.
        rank: number of axes of these; None: not known.
        padded: it reads zeros beyond its input.
        refused: why nothing can be folded into it.
        no_input_fold: why nothing in front of it can.
        least: why it cannot be given a bias.
    """

    node: ir.Node
    weight: ir.Value
    weights: Array
    bias: Array | None
    bias_value: ir.Value | None
    dtype: np.dtype[np.generic]
    out_axis: int
    in_axis: int
    rank: int | None
    padded: bool = False
    refused: str | None = None
    no_input_fold: str | None = None
    least: str | None = None

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return int(self.weights.shape[0] * self.weights.shape[1])

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return int(self.weights.shape[0] * self.weights.shape[2])

    def bias_or_zeros(self) -> Array:
        """Return the bias, zeros where there is none."""
        return np.zeros(self.outputs) if self.bias is None else self.bias

    def scaled_outputs(self, scale: Array) -> Array:
        """Return the weights with every output multiplied."""
        return self.weights * scale.reshape(self.weights.shape[0], -1, 1, 1)

    def scaled_inputs(self, scale: Array) -> Array:
        """Return the weights with every input multiplied."""
        return self.weights * scale.reshape(self.weights.shape[0], 1, -1, 1)

    def response(self, values: Array) -> Array:
        """Return what the layer without bias gives for inputs that are these constants everywhere."""
        alpha = number(self.node, "alpha", 1.0) if self.node.op_type == "Gemm" else 1.0
        summed = (self.weights.sum(axis=3) * values.reshape(self.weights.shape[0], 1, -1)).sum(axis=2)
        return np.asarray(alpha * summed.reshape(-1))

    def rename(self, work: Workpiece) -> None:
        """Give the result of a product another name, where it is another one without the bias behind it."""
        result = self.node.outputs[0]
        if self.node.op_type == "MatMul" and not result.is_graph_output():
            result.name = work.free_name(f"{result.name}_folded")

    def store(self, work: Workpiece, weights: Array, bias: Array | None, precise: bool) -> str | None:
        """Give the layer new weights, and a bias unless that is None; returns why not."""
        dtype = np.dtype(np.float64) if precise else self.dtype
        beta = number(self.node, "beta", 1.0) if self.node.op_type == "Gemm" else 1.0
        with np.errstate(all="ignore"):
            stored = [
                None if a is None else a.astype(dtype)
                for a in (weights, bias if bias is None else bias / beta)
            ]
        if not all(a is None or np.isfinite(a.astype(np.float64)).all() for a in stored):
            return f"the layer's weights would be no finite {self.dtype.name} numbers"
        new_weights, new_bias = stored
        assert new_weights is not None
        shape = work.array(self.weight)
        assert shape is not None
        work.set(self.weight, _restored(self.node, new_weights, shape.shape))
        if new_bias is None:
            return None
        if self.bias_value is not None and work.own(self.bias_value):
            held = work.array(self.bias_value)
            assert held is not None
            work.set(self.bias_value, new_bias.reshape(held.shape))
            return None
        value = work.constant(work.ir.graph, f"{self.weight.name}_bias", new_bias, self.node)
        if len(self.node.inputs) < 3:
            self.node.resize_inputs(3)
        self.node.replace_input_with(2, value)
        return None


def layer_of(work: Workpiece, node: ir.Node, *, biased: bool = False) -> Layer | None:
    """Return a node of the main graph as a layer; None where it is none with a constant weight.

    An Add of a bias to a product is a layer too, and with ``biased`` the product is one with that bias.
    """
    if node.op_type == "Add" and plain(node):
        product = next((m for v in node.inputs if v is not None and (m := v.producer()) is not None), None)
        found = (
            None if product is None or product.op_type != "MatMul" else layer_of(work, product, biased=True)
        )
        return found if found is not None and found.bias_value in node.inputs else None
    if not plain(node) or node.graph is not work.ir.graph or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if weight is None or not (work.fixed(weight) is not None or weight.is_initializer()):
        return None
    reader = {"Conv": _convolution, "ConvTranspose": _transposed, "Gemm": _product, "MatMul": _product}
    if node.op_type not in reader:
        return None
    layer = reader[node.op_type](work, node, weight)
    if layer is None or not biased or node.op_type != "MatMul":
        return layer
    return _with_bias(work, layer)


def _with_bias(work: Workpiece, layer: Layer) -> Layer:
    """Return a product with the bias that an Add behind it holds, where one does."""
    uses = tuple(layer.node.outputs[0].uses())
    if len(uses) != 1 or layer.node.outputs[0].is_graph_output() or uses[0][0].op_type != "Add":
        return layer
    value = next((v for v in uses[0][0].inputs if v is not layer.node.outputs[0]), None)
    array = work.array(value)
    if value is None or array is None or not work.own(value) or not plain(uses[0][0]) or work.opset < 7:
        return layer
    if array.size != layer.outputs or array.ndim > 2 or array.shape[-1:] != (layer.outputs,):
        return layer
    return replace(layer, bias=array.astype(np.float64).reshape(-1), bias_value=value)


def _refusal(work: Workpiece, weight: ir.Value, bias: ir.Value | None) -> str | None:
    if work.fixed(weight) is None or (bias is not None and bias.is_graph_input()):
        return _REPLACEABLE
    if work.encoded(weight) or (bias is not None and work.encoded(bias)):
        return _ENCODED
    if not work.own(weight):
        return _SHARED
    if bias is not None and work.fixed(bias) is None:
        return "the layer's bias is not a constant"
    return None


def _array(work: Workpiece, value: ir.Value) -> Array:
    """Return a constant, also one that a caller may replace: its shape is asked for then."""
    tensor = work.fixed(value) or value.const_value
    assert tensor is not None
    return np.asarray(tensor.numpy())


def _biased(work: Workpiece, bias: ir.Value | None, outputs: int) -> tuple[Array | None, str | None]:
    array = None if bias is None else work.array(bias)
    if bias is None:
        return None, None if work.modern else _TOO_OLD
    if array is None:
        return None, None
    if array.size != outputs or array.shape[-1] != outputs:
        return None, "the layer's bias is not one number an output"
    return array.astype(np.float64).reshape(-1), None


_TOO_OLD = "files of this version keep every new tensor as an input of the graph; --freeze-inputs raises it"


def _convolution(work: Workpiece, node: ir.Node, weight: ir.Value) -> Layer:
    array = _array(work, weight)
    groups = int(number(node, "group", 1))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    shaped = array.astype(np.float64).reshape(groups, array.shape[0] // groups, array.shape[1], -1)
    found, odd = _biased(work, bias, array.shape[0])
    return Layer(
        node, weight, shaped, found, bias, array.dtype, 1, 1, array.ndim,
        padded=_pads(node),
        refused=_refusal(work, weight, bias) or (odd if bias is not None else None),
        least=odd if bias is None else None,
    )  # fmt: skip


def _transposed(work: Workpiece, node: ir.Node, weight: ir.Value) -> Layer:
    array = _array(work, weight)
    groups = int(number(node, "group", 1))
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    split = array.astype(np.float64).reshape(groups, array.shape[0] // groups, array.shape[1], -1)
    shaped = np.ascontiguousarray(split.transpose(0, 2, 1, 3))
    found, odd = _biased(work, bias, groups * array.shape[1])
    return Layer(
        node, weight, shaped, found, bias, array.dtype, 1, 1, array.ndim,
        refused=_refusal(work, weight, bias) or (odd if bias is not None else None),
        no_input_fold="the layer behind it is a transposed convolution",
        least=odd if bias is None else None,
    )  # fmt: skip


def _product(work: Workpiece, node: ir.Node, weight: ir.Value) -> Layer | None:
    array = _array(work, weight)
    gemm = node.op_type == "Gemm"
    if array.ndim != 2:
        return None
    matrix = array if gemm and number(node, "transB", 0) else array.T
    bias = node.inputs[2] if gemm and len(node.inputs) > 2 else None
    found, odd = _biased(work, bias, matrix.shape[0])
    unusable = gemm and number(node, "beta", 1.0) == 0
    return Layer(
        node, weight, matrix.astype(np.float64)[None, :, :, None], _times_beta(node, found), bias,
        array.dtype, -1, -1, 2 if gemm else None,
        refused=_refusal(work, weight, bias)
        or (odd if bias is not None else None)
        or ("the layer's beta is zero" if unusable else None),
        no_input_fold=_TRANSPOSED if gemm and number(node, "transA", 0) else None,
        least=(odd if bias is None else None) if gemm else "a product has no bias",
    )  # fmt: skip


def _times_beta(node: ir.Node, bias: Array | None) -> Array | None:
    return None if bias is None else bias * number(node, "beta", 1.0)


def _restored(node: ir.Node, weights: Array, shape: tuple[int, ...]) -> Array:
    """Return groups x outputs x inputs x taps as the operator stores them."""
    if node.op_type == "Conv":
        return weights.reshape(shape)
    if node.op_type == "ConvTranspose":
        return np.ascontiguousarray(weights.transpose(0, 2, 1, 3)).reshape(shape)
    matrix = weights[0, :, :, 0]
    stored = matrix if node.op_type == "Gemm" and number(node, "transB", 0) else matrix.T
    return np.ascontiguousarray(stored).reshape(shape)


def _pads(node: ir.Node) -> bool:
    padding = node.attributes.get("auto_pad")
    if padding is not None and padding.as_string() in ("SAME_UPPER", "SAME_LOWER"):
        return True
    return "pads" in node.attributes and any(node.attributes["pads"].as_ints())
