"""What is multiplied and added channel by channel goes into the weights of the layer beside it.

With y = a x + s, one a and one s a channel (a normalisation, a product with or sum of constants)::

    a (W x + b) + s  =  (a W) x + (a b + s)           behind a layer
    W (a x + s) + b  =  (W a) x + (b + W s)           in front of one; where it pads, only with s = 0

The new weights are computed in float64 and rounded once: outputs change by rounding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from onnxcompress.surgery.lossless.channelwise import Affine, affine_of
from onnxcompress.surgery.lossless.layer import Layer, layer_of
from onnxcompress.surgery.lossless.workpiece import Workpiece, label, plain

_SLACK = 64
"""Bytes that a node with its names takes at least: a new bias may be so much larger than what goes."""


def fold_affine(work: Workpiece, *, precise: bool = False) -> Iterator[tuple[bool, list[str]]]:
    """Fold until nothing is left to fold; yields (whether they were normalisations, what went), pass by pass.

    Args:
        work: the graph.
        precise: new weights stay in float64, for a proof; such a graph is not to be written.
    """
    folded = True
    while folded:
        folded = False
        for normalisations in (True, False):
            work.look()
            names = list(_pass(work, normalisations, precise))
            if names:
                folded = True
                yield normalisations, names


def _pass(work: Workpiece, normalisations: bool, precise: bool) -> Iterator[str]:
    for node in list(work.ir.graph):
        if node.graph is None or not plain(node):
            continue
        if (node.op_type == "BatchNormalization") is not normalisations:
            continue
        name, read = label(node), [v for v in node.inputs if v is not None]
        if _fold(work, node, precise):
            work.drop_unread(read)
            work.refused.pop(name, None)
            yield name


def _fold(work: Workpiece, node: ir.Node, precise: bool) -> bool:
    affine = affine_of(work, node)
    if not isinstance(affine, Affine):
        if affine is not None:
            work.refused[label(node)] = affine
        return False
    reasons = []
    for fold in (_behind, _in_front):
        why = fold(work, affine, precise)
        if why is None:
            return True
        reasons.append(why)
    if node.op_type == "BatchNormalization":
        work.refused[label(node)] = next((why for why in reasons if why), "no layer is beside it")
    return False


def _behind(work: Workpiece, affine: Affine, precise: bool) -> str | None:
    """Fold into the layer in front; returns why not, "" where there is none."""
    data = affine.data
    maker = data.producer()
    layer = None if maker is None else layer_of(work, maker)
    if layer is None:
        return ""
    if len(tuple(data.uses())) != 1 or data.is_graph_output():
        return "others read what the layer in front of it gives"
    why = layer.refused or _wrong_place(work, affine, layer.out_axis, layer.rank)
    if why is not None:
        return why
    scale = np.broadcast_to(affine.scale, layer.outputs)
    shift = np.broadcast_to(affine.shift, layer.outputs)
    grows = layer.bias is None and shift.any()
    if grows and layer.node.op_type == "MatMul" and affine.node.op_type == "BatchNormalization":
        return _into_product(work, affine, layer, precise)
    if grows and (layer.least is not None or not _pays(affine, layer)):
        return layer.least or "the bias that the layer needs takes more bytes than it does"
    bias = layer.bias_or_zeros() * scale + shift
    why = layer.store(
        work, layer.scaled_outputs(scale), bias if grows or layer.bias is not None else None, precise
    )
    if why is None:
        layer.rename(work)
        work.take_over(affine.node, data)
    return why


def _into_product(work: Workpiece, affine: Affine, layer: Layer, precise: bool) -> str | None:
    """Fold the scale of a normalisation into a product, and let an Add do the rest."""
    why = layer.store(work, layer.scaled_outputs(affine.scale), None, precise)
    if why is None:
        dtype = np.dtype(np.float64) if precise else layer.dtype
        node, result = affine.node, affine.node.outputs[0]
        constant = work.constant(work.ir.graph, f"{result.name}_bias", affine.shift.astype(dtype), node)
        added = ir.Node("", "Add", [affine.data, constant], num_outputs=1, name=node.name)
        work.ir.graph.insert_before(node, added)
        layer.rename(work)
        work.take_over(node, added.outputs[0])
    return why


def _in_front(work: Workpiece, affine: Affine, precise: bool) -> str | None:
    """Fold into the layer behind; returns why not, "" where there is none."""
    result = affine.node.outputs[0]
    uses = tuple(result.uses())
    if len(uses) != 1 or result.is_graph_output():
        return ""
    reader, slot = uses[0]
    layer = layer_of(work, reader, biased=True)
    if layer is None or slot != 0 or reader.graph is not work.ir.graph:
        return ""
    why = layer.refused or layer.no_input_fold or _wrong_place(work, affine, layer.in_axis, layer.rank)
    if why is not None:
        return why
    scale = np.broadcast_to(affine.scale, layer.inputs)
    shift = np.broadcast_to(affine.shift, layer.inputs)
    if shift.any() and layer.padded:
        return "the layer behind it pads its input, with zeros that it would have to shift too"
    added = layer.response(shift)
    grows = layer.bias is None and added.any()
    if grows and (layer.least is not None or not _pays(affine, layer)):
        return layer.least or "the bias that the layer needs takes more bytes than it does"
    bias = layer.bias_or_zeros() + added
    why = layer.store(
        work, layer.scaled_inputs(scale), bias if grows or layer.bias is not None else None, precise
    )
    if why is None:
        layer.rename(work)
        reader.replace_input_with(0, affine.data)
        work.ir.graph.remove(affine.node, safe=True)
    return why


def _wrong_place(work: Workpiece, affine: Affine, axis: int, rank: int | None) -> str | None:
    """Return why an affine map is none of a layer's channels, which lie along ``axis``."""
    if affine.axis is None:
        return None
    dims = work.dims(affine.data)
    rank = rank if rank is not None else None if dims is None else len(dims)
    if rank is None and affine.axis < 0 and axis < 0:
        return None if affine.axis == axis else "it works along another axis"
    if rank is None:
        return "the number of axes is not known"
    return None if affine.axis % rank == axis % rank else "it works along another axis"


def _pays(affine: Affine, layer: Layer) -> bool:
    return layer.outputs * layer.dtype.itemsize <= affine.freed_bytes + _SLACK
