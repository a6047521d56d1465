"""Small models written as ONNX text."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnxcompress import importer


def proto_of(body, inputs, outputs, weights, opset=17, ir_version=8):
    """Parse a graph's body; weights are arrays, or shapes to draw at random."""
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, value in weights.items():
        array = value if isinstance(value, np.ndarray) else rng.standard_normal(value).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def model_of(body, inputs, outputs, weights, opset=17, ir_version=8):
    """Return the model that a graph's body makes."""
    proto = proto_of(body, inputs, outputs, weights, opset, ir_version)
    onnx.checker.check_model(proto)
    return importer.load(proto)
