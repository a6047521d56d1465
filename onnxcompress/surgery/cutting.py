"""Cutting: channel groups leave every tensor that holds them, and the graph is repaired around the gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Keep, kept_positions
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.engine.channels import Channels
from onnxcompress.surgery.extent import Extent
from onnxcompress.surgery.folding import fold_constants
from onnxcompress.surgery.inlets import gather
from onnxcompress.surgery.operation import Operation
from onnxcompress.surgery.repair import repair
from onnxcompress.surgery.sizes import pin_sizes
from onnxcompress.surgery.sweep import join_copies, sweep
from onnxcompress.surgery.tensors import Tensors


@dataclass(frozen=True, eq=False)
class CutModel:
    """A model without the channels that were cut, and what was done.

    Attributes:
        model: the model; names, inputs, outputs, operator sets and metadata are those of before.
        shapes: weight name -> shape that is left, for the weights that became smaller.
        gone: weights that nothing reads any more.
        folded: sites at which constants of cut channels went into a bias.
        gathers: nodes that pick positions of the model's input.
        warnings: sentences the user must see.
    """

    model: Model
    shapes: Mapping[str, tuple[int, ...]]
    gone: tuple[str, ...]
    folded: int
    gathers: int
    warnings: tuple[str, ...]


def cut(channels: Channels, keep: Keep, constants: Mapping[str, Array] | None = None) -> CutModel:
    """Cut channels out of a clone of the analysed model.

    Args:
        channels: the analysed model.
        keep: group name -> which of its channels stay (bool); groups not named stay whole. Groups that only
            read the model's input may be named too: a Gather in front of their sites leaves positions out.
        constants: site key -> the value each position along its axis has for every input: what those that
            are cut contributed goes into the consumer's bias.

    Raises:
        UnsupportedError: a group is unknown, frozen or would be emptied, or a constant is no bias.
    """
    extent = Extent(channels, keep)
    analysed = channels.model
    clone = Model(analysed.ir.clone(), analysed.source, analysed.encodings, analysed.steps)
    twins = dict(zip(analysed.ir.graph, clone.ir.graph, strict=True))
    opset = int(clone.ir.opset_imports.get("", clone.ir.opset_imports.get("ai.onnx", 1)))
    before = {name: weight.shape for name, weight in analysed.weights.items()}
    tensors = Tensors(clone)
    operation = Operation(extent, tensors, twins, opset)
    folded = fold_constants(operation, constants or {})
    for name, axes in _sliced(extent).items():
        tensors.take(tensors.value(name), {axis: np.flatnonzero(mask) for axis, mask in axes.items()})
    gathers = gather(operation)
    pin_sizes(operation)
    repair(operation)
    _annotate(extent, twins)
    join_copies(clone)
    tensors.modernise()  # what is no input any more may be swept
    sweep(clone)
    after = Model(clone.ir, clone.source, {}, clone.steps)
    encodings = {name: e for name, e in tensors.encodings.items() if name in after.weights}
    result = Model(clone.ir, clone.source, encodings, clone.steps)
    shapes = {n: w.shape for n, w in result.weights.items() if before.get(n, w.shape) != w.shape}
    gone = tuple(name for name in before if name not in result.weights)
    return CutModel(result, shapes, gone, folded, gathers, tuple(_warnings(extent, tensors)))


def _sliced(extent: Extent) -> dict[str, dict[int, Array]]:
    """Return constant name -> axis -> which positions stay."""
    found: dict[str, dict[int, Array]] = {}
    for name, mask in extent.keep.items():
        for member in extent.channels.group(name).members:
            axes = found.setdefault(member.tensor, {})
            stays = kept_positions(member, mask)
            axes[member.axis] = axes.get(member.axis, np.ones(len(stays), bool)) & stays
    return found


def _annotate(extent: Extent, twins: Mapping[ir.Node, ir.Node]) -> None:
    """Correct what the file says of the shapes of values that were cut."""
    for node, twin in twins.items():
        touched = any(v is not None and extent.axes(v) for v in node.inputs)
        for value, changed in zip(node.outputs, twin.outputs, strict=True):
            if changed.shape is None or not value.name:
                continue
            if touched and not changed.uses() and not changed.is_graph_output():
                changed.shape = None  # nobody asked how far the cut reaches into what nobody reads
                continue
            known, axes = extent.shape(value), extent.axes(value)
            if not axes:
                continue
            if known is None or len(known) != len(changed.shape):
                changed.shape = None
                continue
            shape = list(changed.shape)
            for axis, mask in axes.items():
                # An axis of heads times examples is as long as the input says; a wrong number misleads.
                varies = extent.channels.is_dynamic(value.name, axis)
                shape[axis] = ir.SymbolicDim(None) if varies else int(mask.sum())
            changed.shape = ir.Shape(shape)


_ALIGNED = 4
"""Convolutions in onnxruntime are fast for numbers of channels that are a multiple of this."""


def _warnings(extent: Extent, tensors: Tensors) -> list[str]:
    told = []
    if tensors.no_inputs:
        shown = ", ".join(f"'{n}'" for n in tensors.no_inputs[:3]) + (
            " …" if len(tensors.no_inputs) > 3 else ""
        )
        told.append(
            f"weights that were also optional inputs of the model ({len(tensors.no_inputs)} here) are "
            f"constants now: {shown}"
        )
    return [*told, *_slow(extent)]


def _slow(extent: Extent) -> list[str]:
    """Return a sentence on the convolutions whose inputs have an odd number of channels now."""
    odd: dict[str, bool] = {}
    for name in extent.keep:
        group = extent.channels.group(name)
        for site in group.sites:
            stays = extent.read(site.node, site.slot, site.axis)
            if site.node.op_type != "Conv" or site.slot != 0 or stays is None:
                continue
            if len(stays) % _ALIGNED == 0 and int(stays.sum()) % _ALIGNED != 0:
                where = f"{site.node.name or site.node.outputs[0].name} ({len(stays)} → {int(stays.sum())})"
                # Of groups of 6 and 6 no two widths that are left are sure to make a multiple of 4.
                odd[where] = odd.get(where, True) and int((site.channel_of >= 0).sum()) % _ALIGNED == 0
    if not odd:
        return []
    shown = ", ".join(list(odd)[:3]) + (" …" if len(odd) > 3 else "")
    advice = f"--round-to {_ALIGNED} or 16 avoids it"
    if not any(odd.values()):
        advice = f"the groups that meet there are no multiples of {_ALIGNED}; --exclude keeps them"
    return [
        f"convolutions that read a number of channels which is no multiple of {_ALIGNED} any more "
        f"({len(odd)} here) are slow in onnxruntime: {shown}; {advice}"
    ]
