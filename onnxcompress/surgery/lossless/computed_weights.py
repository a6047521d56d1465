"""Computed weights: what a file works out from constants on every start becomes a weight to compress.

Weight standardisation (NFNet, BiT) and weight normalisation are exported as arithmetic on trained tensors. No
channel can be cut from a mean over channels, and no layer's weight is seen behind it. Weights in 8 bits stay
as they are: that is how they are stored, and onnxruntime computes in 8 bits where it finds them so.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.core.model import FLOAT_TYPES, Model, constant_of
from onnxcompress.engine.operands import CONTRACTION, MOVING, RECURRENT, readers, role_of
from onnxcompress.surgery.lossless.constants import fold_constants
from onnxcompress.surgery.lossless.workpiece import Workpiece, plain

_STORED = frozenset(["Constant", "DequantizeLinear"])
"""Operators whose results are how a weight is stored."""


def store_computed_weights(model: Model) -> tuple[Model, tuple[str, ...]]:
    """Return a model in which weights computed from constants are stored, and the nodes that computed them.

    The values are onnxruntime's own, bit by bit. The model itself, and no names, where there are none; packed
    weights, and others that would take more bytes than what they are computed from, stay computed.
    """
    constant: set[ir.Value] = set()
    found = False
    for node in model.ir.graph:
        if plain(node) and node.inputs and all(_known(value, constant) for value in node.inputs):
            constant.update(node.outputs)
            found |= _is_computed_weight(node.outputs[0])
    if not found:
        return model, ()
    work = Workpiece(model)
    names = tuple(fold_constants(work, _is_computed_weight))
    return (work.model(), names) if names else (model, ())


def _known(value: ir.Value | None, constant: set[ir.Value]) -> bool:
    return value is None or value in constant or constant_of(value) is not None


def _is_computed_weight(value: ir.Value) -> bool:
    """Tell whether layers alone read a value as their weight, and arithmetic makes it, of whatever."""
    if not value.uses() or value.dtype not in (None, *FLOAT_TYPES):
        return False
    roles = {role_of(node, slot, set()) for node, slot in readers(value)}
    maker = value.producer()
    while maker is not None and maker.op_type in MOVING and maker.inputs and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    return roles <= {CONTRACTION, RECURRENT} and maker is not None and maker.op_type not in _STORED
