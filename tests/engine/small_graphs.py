"""Small models built in code, compared with onnxruntime; shared by the tests of the torch graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.torchgraph import TorchGraph

RNG = np.random.default_rng(0)
W44 = RNG.standard_normal((4, 4)).astype(np.float32)
FLOAT = TensorProto.FLOAT


def proto(nodes, inputs, outputs, initializers=None, *, opset=17, ir_version=8, functions=(), domains=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def torch_graph(model, **options):
    return TorchGraph(Model(ir.from_proto(model), Source(None, "", 0)), **options)


def reference(model):
    """Open a model as it is written: optimised, onnxruntime computes DequantizeLinear + MatMul in 8 bits."""
    return runtime.open_session(model.SerializeToString(), optimization="none")


def check(model, feeds, tolerance=1e-6, **options):
    """Compare the torch graph with onnxruntime on these feeds; return the graph."""
    graph = torch_graph(model, **options)
    expected = reference(model).run(feeds)
    found = graph.run(feeds)
    assert list(found) == list(expected)
    for name, want in expected.items():
        got = found[name]
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(got, want)
    return graph


def sgd_step(graph, feeds, lr=0.1):
    """Do one SGD step on the sum of squares of all float outputs; return the graph."""
    optimizer = torch.optim.SGD([graph.weight(n) for n in graph.trainable], lr=lr)
    outputs = graph({n: torch.from_numpy(a) if isinstance(a, np.ndarray) else a for n, a in feeds.items()})
    loss = sum((o**2).sum() for o in outputs.values() if o.is_floating_point())
    loss.backward()
    optimizer.step()
    return graph


def written(model, graph):
    """Return the model with the graph's weights written into its initializers and Constant nodes."""
    clone = onnx.ModelProto()
    clone.CopyFrom(model)
    arrays = graph.arrays()
    for tensor in clone.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    for node in clone.graph.node:
        if node.op_type == "Constant" and node.output[0] in arrays:
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(arrays[node.output[0]]))
    return clone


X = {"x": (FLOAT, [2, 4])}
Y = {"y": (FLOAT, [2, 4])}
FEEDS = {"x": RNG.standard_normal((2, 4)).astype(np.float32)}
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
