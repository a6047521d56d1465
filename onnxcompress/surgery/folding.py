"""Constants of cut channels go into the bias of the layer that summed over them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Site
from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.engine.bias_shift import Shift, shift_of
from onnxcompress.engine.channels import site_key
from onnxcompress.surgery.extent import Extent
from onnxcompress.surgery.operation import Operation


def fold_constants(operation: Operation, constants: Mapping[str, Array]) -> int:
    """Add what cut constant channels contributed to their consumers' biases; before anything is sliced.

    Args:
        operation: the cut under way.
        constants: site key -> the constant of each position along its axis; those that stay are ignored.

    Returns:
        The number of sites folded.

    Raises:
        UnsupportedError: a constant is not the same bias everywhere.
    """
    extent = operation.extent
    sites = {site_key(s): s for name in extent.keep for s in extent.channels.group(name).sites}
    folded = 0
    for key, values in constants.items():
        site = sites.get(key)
        if site is None:
            continue
        data = site.node.inputs[site.slot]
        stays = None if data is None else extent.read(site.node, site.slot, site.axis)
        if stays is None:
            continue
        gone = np.where(stays, 0.0, np.asarray(values, np.float64))
        if not gone.any():
            continue
        shift = shift_of(extent.channels, site, gone)
        if isinstance(shift, str):
            raise UnsupportedError(
                "constant channels cannot be folded into a bias", where=key, why=shift, fix="keep them"
            )
        _apply(operation, site, shift)
        folded += 1
    return folded


_BIASED = {"Gemm": 1, "Conv": 1}
"""Operators with a bias in their third input, and the axis of the output along which it lies."""


def _apply(operation: Operation, site: Site, shift: Shift) -> None:
    """Add a shift to the node's own bias, give it one, or add it behind the node."""
    extent, tensors, twin = operation.extent, operation.tensors, operation.twins[site.node]
    beta = twin.attributes["beta"].as_float() if "beta" in twin.attributes else 1.0
    dtype = _dtype(extent, site)
    if _BIASED.get(site.node.op_type) == shift.axis:
        bias = twin.inputs[2] if len(twin.inputs) > 2 else None
        if bias is None and beta == 1.0:
            if len(twin.inputs) < 3:
                twin.resize_inputs(3)
            kept = extent.along(site.node.outputs[0], shift.axis)
            values = shift.values if kept is None else shift.values[kept]
            twin.replace_input_with(2, tensors.new(f"{twin.outputs[0].name}_bias", values.astype(dtype)))
            return
        if bias is not None and beta != 0.0 and tensors.own(bias):
            before = tensors.array(bias)
            if before.size == len(shift.values) and before.shape[-1] == before.size:
                after = before.astype(np.float64) + (shift.values / beta).reshape(before.shape)
                tensors.set(bias, after.astype(before.dtype))
                return
    _add_behind(operation, site, shift, dtype)


def _add_behind(operation: Operation, site: Site, shift: Shift, dtype: np.dtype[np.generic]) -> None:
    extent, tensors, twin = operation.extent, operation.tensors, operation.twins[site.node]
    kept = extent.along(site.node.outputs[0], shift.axis)
    values = shift.values if kept is None else shift.values[kept]
    rank = len(extent.shape(site.node.outputs[0]) or ())
    shape = [1] * (rank - shift.axis)
    shape[0] = len(values)
    output, name = twin.outputs[0], twin.outputs[0].name
    constant = tensors.new(f"{name}_shift", values.astype(dtype).reshape(shape))
    added = ir.Node("", "Add", [output, constant], num_outputs=1, name=tensors.free_name(f"{name}_shifted"))
    twin.append(added)
    made = added.outputs[0]
    made.type, made.shape = output.type, output.shape if kept is None else None
    readers = [(node, slot) for node, slot in output.uses() if node is not added]
    for node, slot in readers:
        node.replace_input_with(slot, made)
    tensors.swap(output, made)


def _dtype(extent: Extent, site: Site) -> np.dtype[np.generic]:
    operand = site.node.inputs[1 - site.slot]
    array = None if operand is None else extent.channels.constant(operand.name or "")
    assert array is not None, "a shift is computed from a constant"
    return array.dtype
