"""BatchNormalization lent to a network for the time of training, and folded into its layers afterwards.

A network that was exported for inference has none: ``y = Wx + b`` of each hidden layer becomes
``γ (y − m)/√(v + ε) + β`` with the statistics m, v of the batch (Ioffe, Szegedy 2015). It starts as the
identity on the training data, and ends as ``W' = W γ/√(v + ε)``, ``b' = (b − m) γ/√(v + ε) + β`` with running
statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model, constant_of

EPSILON = 1e-5
_MOMENTUM = 0.02
"""Of the running statistics: those of some 50 batches, fewer are noisy for single numbers."""


@dataclass(frozen=True)
class Linear:
    """A hidden layer that normalisation can follow, and be folded into.

    Attributes:
        output: name of the value ``Wx + b``.
        axis: its channel axis, counted from the end where negative.
        weight: name of W.
        weight_axis: W's axis along which its outputs lie.
        bias: name of b, whose elements along its last axis are the channels.
    """

    output: str
    axis: int
    weight: str
    weight_axis: int
    bias: str


def hidden_layers(model: Model) -> tuple[Linear, ...]:
    """Return the layers (Conv, Gemm, MatMul with Add) with weight and bias of their own, in graph order.

    Those whose result reaches an output of the model unchanged, or a normalisation, are left out.
    """
    encoded = {name for name, encoding in model.encodings.items() if encoding.kind != "dense"}
    names = {w.value: name for name, w in model.weights.items() if name not in encoded}
    found = (_linear(node, names) for node in model.ir.graph)
    return tuple(layer for layer in found if layer is not None)


def normalising(model: Model, trained: Collection[str], device: str) -> Normalisation | None:
    """Return normalisation for the hidden layers that are trained; None where there are none."""
    layers = [la for la in hidden_layers(model) if la.weight in trained and la.bias in trained]
    widths = {la.output: model.weights[la.weight].shape[la.weight_axis] for la in layers}
    return Normalisation(layers, widths).to(device) if layers else None


def _linear(node: ir.Node, names: Mapping[ir.Value, str]) -> Linear | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "Conv" and len(node.inputs) > 2:
        return _layer(names, (node.outputs[0], 1), (node.inputs[1], 0), node.inputs[2])
    if node.op_type == "Gemm" and len(node.inputs) > 2 and _plain(node):
        across = node.attributes.get("transB")
        axis = 0 if across is not None and across.as_int() else 1
        return _layer(names, (node.outputs[0], 1), (node.inputs[1], axis), node.inputs[2])
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0][0].op_type != "Add" or node.op_type not in ("MatMul", "Conv"):
        return None
    add, slot = uses[0]
    weight, bias = node.inputs[1], add.inputs[1 - slot]
    if node.op_type == "Conv" and _rank(bias) == _rank(weight) - 1 > 0:
        return _layer(names, (add.outputs[0], 1), (weight, 0), bias)
    if node.op_type == "MatMul" and _rank(weight) == 2:
        return _layer(names, (add.outputs[0], -1), (weight, 1), bias)
    return None


def _rank(value: ir.Value | None) -> int:
    held = None if value is None else constant_of(value)
    return -1 if held is None else len(held.shape)


def _plain(node: ir.Node) -> bool:
    attributes = node.attributes
    factors = [attributes[n].as_float() for n in ("alpha", "beta") if n in attributes]
    return all(f == 1 for f in factors) and not ("transA" in attributes and attributes["transA"].as_int())


def _layer(
    names: Mapping[ir.Value, str],
    output: tuple[ir.Value, int],
    made_by: tuple[ir.Value | None, int],
    bias: ir.Value | None,
) -> Linear | None:
    """Return a layer, None where its weight or bias is not its own or its result is normalised anyway."""
    value, axis = output
    weight, weight_axis = made_by
    if weight is None or bias is None or weight not in names or bias not in names:
        return None
    if any(len(list(v.uses())) != 1 or v.is_graph_output() for v in (weight, bias)):
        return None
    held, added = constant_of(weight), constant_of(bias)
    assert held is not None
    assert added is not None
    width = int(held.shape.numpy()[weight_axis])
    # The channels lie along the first axis of a bias that is added to maps, C 1 1, and the last of others.
    lengths = [int(d) for d in added.shape.numpy()] or [1]
    first = axis == 1 and len(lengths) == len(held.shape) - 1
    if added.size != width or lengths[0 if first else -1] != width or not value.name or _ends(value):
        return None
    return Linear(value.name, axis, names[weight], weight_axis, names[bias])


_NORMALISING = frozenset(["BatchNormalization", "InstanceNormalization", "LayerNormalization"])
_PASSING = frozenset(
    ["Softmax", "LogSoftmax", "Reshape", "Identity", "Squeeze", "Flatten", "Cast", "Sigmoid"]
)


def _ends(value: ir.Value) -> bool:
    """Tell whether a value is an output of the model but for its form, or is normalised next."""
    if value.is_graph_output():
        return True
    readers = [node for node, _ in value.uses()]
    if not readers or any(node.op_type in _NORMALISING for node in readers):
        return True
    return any(node.op_type in _PASSING and _ends(node.outputs[0]) for node in readers)


class Normalisation(nn.Module):
    """BatchNormalization after several layers, as hooks of a graph.

    Args:
        layers: where.
        widths: channels of each.
    """

    def __init__(self, layers: Iterable[Linear], widths: Mapping[str, int]) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self._list = nn.ModuleList(nn.BatchNorm1d(widths[la.output], EPSILON) for la in self.layers)
        self._estimating, self._listening = False, False

    @property
    def _norms(self) -> list[nn.BatchNorm1d]:
        return cast(list[nn.BatchNorm1d], list(self._list))

    @contextmanager
    def on(self, hooks: dict[str, Any]) -> Iterator[None]:
        """Normalise for a while: by the batch where a gradient is asked for, by what is known elsewhere."""
        for layer, norm in zip(self.layers, self._norms, strict=True):
            hooks[layer.output] = lambda value, la=layer, norm=norm: self._normalised(la, norm, value)
        try:
            yield
        finally:
            for layer in self.layers:
                del hooks[layer.output]

    def pause(self, look: Callable[[], None]) -> None:
        """See what passes through the network as it is while ``look`` runs it, and become the identity."""
        self._listening = True
        try:
            with self.estimating():
                look()
        finally:
            self._listening = False
        self._start_as_identity()

    @contextmanager
    def estimating(self) -> Iterator[None]:
        """Take the mean statistics of all batches that are run meanwhile."""
        for norm in self._norms:
            norm.reset_running_stats()
            norm.momentum = None
        self._estimating = True
        try:
            yield
        finally:
            self._estimating = False
            for norm in self._norms:
                norm.momentum = _MOMENTUM

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        """Set γ and β so that nothing changes by the statistics known."""
        for norm in self._norms:
            mean, variance = _statistics(norm)
            norm.weight.copy_((variance + EPSILON).sqrt())
            norm.bias.copy_(mean)

    def folded(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Return weights and biases with the normalisation folded in."""
        found = {}
        for layer, norm in zip(self.layers, self._norms, strict=True):
            mean, variance = (_array(v) for v in _statistics(norm))
            scale = _array(norm.weight) / np.sqrt(variance + EPSILON)
            weight, bias = arrays[layer.weight], arrays[layer.bias]
            along = [len(scale) if k == layer.weight_axis else 1 for k in range(weight.ndim)]
            found[layer.weight] = (weight.astype(np.float64) * scale.reshape(along)).astype(weight.dtype)
            shifted = (bias.astype(np.float64).ravel() - mean) * scale + _array(norm.bias)
            found[layer.bias] = shifted.astype(bias.dtype).reshape(bias.shape)
        return found

    def _normalised(self, layer: Linear, norm: nn.BatchNorm1d, value: torch.Tensor) -> torch.Tensor:
        axis = layer.axis % value.dim()
        kind = norm.weight.dtype  # a model may compute with numbers of another width
        moved = value.movedim(axis, -1)
        rows = moved.reshape(-1, moved.shape[-1])
        norm.train((torch.is_grad_enabled() or self._estimating) and len(rows) > 1)
        if axis == 1 and value.dim() > 2:
            found: torch.Tensor = norm(value.flatten(2).to(kind)).to(value.dtype)
            return value if self._listening else found.reshape(value.shape)
        found = norm(rows.to(kind)).to(value.dtype)
        return value if self._listening else found.reshape(moved.shape).movedim(-1, axis)


def _statistics(norm: nn.BatchNorm1d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().double().numpy()
