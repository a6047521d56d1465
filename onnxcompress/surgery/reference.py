"""What a cut is measured against: the same model with the same channels silenced, every shape unchanged."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from onnxcompress.core.encoding import Array
from onnxcompress.core.model import Model
from onnxcompress.engine.channels import Channels, Keep, silenced, site_key


def reference(channels: Channels, keep: Keep, constants: Mapping[str, Array]) -> Model:
    """Return the analysed model with channels silenced; constant ones have their constant instead of zero.

    Args:
        channels: the analysed model.
        keep: group name -> which of its channels stay.
        constants: site key -> the constant of each position along its axis; those that stay are ignored.
    """
    model = silenced(channels, keep)
    if not constants:
        return model
    graph = model.ir.graph
    readers = {node.outputs[0].name: node for node in graph}
    names = set(graph.initializers)
    for name, mask in keep.items():
        for site in channels.group(name).sites:
            values = constants.get(site_key(site))
            own = site.channel_of >= 0
            gone = own & ~np.append(mask, True)[site.channel_of]
            if values is None or not gone.any():
                continue
            node = readers[site.node.outputs[0].name]
            data, source = node.inputs[site.slot], site.node.inputs[site.slot]
            assert data is not None
            assert source is not None
            rank = len(channels.shape(source.name or ""))
            shape = [len(gone) if axis == site.axis else 1 for axis in range(rank)]
            dtype = (source.dtype or ir.DataType.FLOAT).numpy()
            array = np.where(gone, values, 0.0).astype(dtype).reshape(shape)
            label = f"{source.name}_constant_{len(names)}"
            names.add(label)
            constant = ir.Value(name=label, const_value=ir.tensor(array, name=label))
            constant.shape, constant.dtype = ir.Shape(shape), ir.DataType.from_numpy(array.dtype)
            graph.register_initializer(constant)
            added = ir.Node("", "Add", [data, constant], num_outputs=1, name=f"{label}_added")
            added.outputs[0].name = f"{label}_added"
            added.outputs[0].type = data.type
            graph.insert_before(node, added)
            node.replace_input_with(site.slot, added.outputs[0])
    return model
