"""Clones with something in front of the sites: a tap to listen or gate at, or a mask that silences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from onnxcompress.core.channels import Keep, Site, kept_positions
from onnxcompress.core.encoding import Array
from onnxcompress.core.model import LEAST_IR_VERSION, Model
from onnxcompress.core.names import free_name
from onnxcompress.engine.channels.channels import Channels


def site_key(site: Site) -> str:
    """Return a name for a site that is unique in its model: what its node gives, input, axis.

    Names of nodes need not be unique, and a node may leave out its first output.
    """
    given = next((value.name for value in site.node.outputs if value.name), site.node.name)
    return f"{given}:{site.slot}:{site.axis}"


def tapped(channels: Channels, sites: Iterable[Site]) -> tuple[Model, dict[str, str]]:
    """Return a clone with an Identity in front of each site, and its output's name by site key.

    A hook of TorchGraph on that name sees, and may change, the activation that this one consumer reads.
    """
    twin = _Twin(channels)
    taps: dict[tuple[ir.Node, int], str] = {}
    names: dict[str, str] = {}
    for site in sites:
        place = (site.node, site.slot)
        if place not in taps:
            taps[place] = twin.insert(site, "Identity", ())
        names[site_key(site)] = taps[place]
    return twin.model(), names


def silenced(channels: Channels, keep: Keep) -> Model:
    """Return a clone in which the channels that ``keep`` drops have no effect, all shapes unchanged.

    Every site's activation is multiplied by a mask of zeros and ones, and so is the weight where a recurrent
    node sums over its own state.
    """
    twin = _Twin(channels)
    masks = site_masks(channels, keep)
    for node, slot, axis in channels.ground.recurrent:
        weight = node.inputs[slot]
        stays = channels.keep_along("" if weight is None else weight.name or "", axis, keep)
        if stays is not None:
            masks[node, slot, axis] = stays
    for (node, slot, axis), mask in masks.items():
        twin.mask(node, slot, axis, mask)
    return twin.model()


def site_masks(channels: Channels, keep: Keep) -> dict[tuple[ir.Node, int, int], Array]:
    """Return (node, slot, axis) -> which positions stay, for every site where some do not."""
    masks: dict[tuple[ir.Node, int, int], Array] = {}
    for name, mask in keep.items():
        for site in channels.group(name).sites:
            stays = kept_positions(site, mask)
            place = (site.node, site.slot, site.axis)
            masks[place] = masks.get(place, np.ones(len(stays), bool)) & stays
    return {place: stays for place, stays in masks.items() if not stays.all()}


class _Twin:
    """A clone of the analysed model, found by the analysed graph's own nodes."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        original = channels.model
        self._clone = original.ir.clone()
        self._nodes = dict(zip(original.ir.graph, self._clone.graph, strict=True))
        made = {v.name for n in self._clone.graph for v in n.outputs if v.name}
        self._names = made | set(self._clone.graph.initializers)
        self._clone.ir_version = max(self._clone.ir_version, LEAST_IR_VERSION)

    def model(self) -> Model:
        original = self._channels.model
        return Model(self._clone, original.source, original.encodings, original.steps)

    def insert(self, site: Site, op_type: str, inputs: Sequence[ir.Value]) -> str:
        """Put an operator between a consumer and the activation it reads; return its output's name."""
        return self._insert(site.node, site.slot, op_type, inputs)

    def mask(self, node: ir.Node, slot: int, axis: int, stays: Array) -> None:
        """Multiply the activation by zeros and ones along one axis."""
        value = node.inputs[slot]
        assert value is not None
        trace = self._channels.ground.trace
        rank = len(trace.shapes[value])
        dtype = trace.dtypes.get(value, ir.DataType.FLOAT)
        array = stays.astype(dtype.numpy()).reshape([len(stays) if k == axis else 1 for k in range(rank)])
        name = free_name(f"{value.name}_mask", self._names)
        constant = ir.Value(name=name, const_value=ir.Tensor(array, name=name, dtype=dtype))
        constant.shape, constant.dtype = ir.Shape(array.shape), dtype
        self._clone.graph.register_initializer(constant)
        self._insert(node, slot, "Mul", (constant,))

    def _insert(self, node: ir.Node, slot: int, op_type: str, inputs: Sequence[ir.Value]) -> str:
        twin = self._nodes[node]
        value = twin.inputs[slot]
        assert value is not None
        new = ir.Node("", op_type, [value, *inputs], num_outputs=1)
        name = free_name(f"{value.name}_site", self._names)
        new.name = new.outputs[0].name = name
        if value.dtype is not None:
            new.outputs[0].dtype = value.dtype
        self._clone.graph.insert_before(twin, new)
        twin.replace_input_with(slot, new.outputs[0])
        return name
