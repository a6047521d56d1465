"""Small graphs to cut, as ONNX text, and what computes their outputs."""

import numpy as np

from onnxcompress import exporter
from onnxcompress.engine import runtime
from onnxcompress.engine.channels import analyse


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
