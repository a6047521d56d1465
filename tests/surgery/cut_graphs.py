"""Small graphs to cut, as ONNX text, and what computes their outputs."""

import numpy as np
import onnx
from onnx import numpy_helper, parser

from onnxcompress import exporter, importer
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse


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
    proto = proto_of(body, inputs, outputs, weights, opset, ir_version)
    onnx.checker.check_model(proto)
    return importer.load(proto)


def channels_of(model, **shapes):
    return analyse(model, shapes)


def dropping(channels, tensor, *gone):
    """Return the mask that drops these channels of the group that a tensor makes."""
    group = next(
        g for g in channels.groups if any(m.tensor == tensor and not m.consumes for m in g.members) and g.free
    )
    return {group.name: ~np.isin(np.arange(group.size), gone)}


def run(model, **feeds):
    feeds = {name: np.asarray(a, np.float32) for name, a in feeds.items()}
    return runtime.open_session(exporter.dense_bytes(model)).run(feeds)


def array_of(model, name):
    return model.array(name)


def ints(*values):
    return np.array(values, np.int64)


PERCEPTRON = ("h = Gemm (x, a, ab) r = Relu (h) y = Gemm (r, b, bb)", "float[N, 6] x", "float[N, 3] y",
              {"a": (6, 8), "ab": (8,), "b": (8, 3), "bb": (3,)})  # fmt: skip
