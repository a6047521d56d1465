"""Random graphs: the torch graph equals onnxruntime, and its gradients equal difference quotients."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.torchgraph import TorchGraph

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

UNARY = ["Relu", "Tanh", "Sigmoid", "Neg", "Softplus", "Erf", "Identity", "Sin", "LeakyRelu", "HardSwish"]
STEPS = [
    *("unary", "binary", "scale", "matmul", "reshape", "transpose", "concat", "split", "slice"),
    *("softmax", "gather", "reduce", "norm", "expand", "dynamic"),
]
BINARY = ["Add", "Sub", "Mul", "Max", "Min"]


class Builder:
    """Grows a graph of float tensors node by node from hypothesis' choices."""

    def __init__(self, data):
        self.data = data
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
        self.nodes, self.initializers, self.inputs = [], [], []
        self.shapes = {}
        shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=4), label="input shape"))
        self.inputs.append("x")
        self.shapes["x"] = shape

    def pick(self, options, label):
        return self.data.draw(st.sampled_from(list(options)), label=label)

    def tensor(self):
        return self.pick(self.shapes, "value")

    def name(self):
        return f"v{len(self.nodes)}.{self.random.integers(1000)}"

    def constant(self, array, kind):
        """Store a constant where files store them: as initializer, Constant, or behind another node."""
        name = f"c{len(self.initializers)}_{len(self.nodes)}"
        if kind == "constant":
            tensor = numpy_helper.from_array(array)
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        elif kind == "transposed" and array.ndim == 2:
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array.T), name + "_t"))
            self.nodes.append(helper.make_node("Transpose", [name + "_t"], [name], perm=[1, 0]))
        elif kind == "double":
            self.initializers.append(numpy_helper.from_array(array.astype(np.float64), name + "_d"))
            self.nodes.append(helper.make_node("Cast", [name + "_d"], [name], to=TensorProto.FLOAT))
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, shape):
        kind = self.pick(["initializer", "constant", "transposed", "double"], "home")
        return self.constant(self.random.standard_normal(shape).astype(np.float32), kind)

    def integers(self, values):
        kind = self.pick(["initializer", "constant"], "home of a shape")
        return self.constant(np.array(values, dtype=np.int64), kind)

    def emit(self, op_type, inputs, shape, **attributes):
        name = self.name()
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"n{name}", **attributes))
        self.shapes[name] = tuple(shape)

    def grow(self):
        x = self.tensor()
        shape = self.shapes[x]
        step = self.pick(STEPS, "step")
        getattr(self, "_" + step)(x, shape)

    def _unary(self, x, shape):
        self.emit(self.pick(UNARY, "unary"), [x], shape)

    def _binary(self, x, shape):
        other = self.pick([n for n, s in self.shapes.items() if s == shape], "other")
        self.emit(self.pick(BINARY, "binary"), [x, other], shape)

    def _scale(self, x, shape):
        self.emit(self.pick(BINARY, "binary"), [x, self.weight(shape[-1:])], shape)

    def _matmul(self, x, shape):
        width = self.data.draw(st.integers(1, 4), label="width")
        self.emit("MatMul", [x, self.weight((shape[-1], width))], (*shape[:-1], width))

    def _reshape(self, x, shape):
        target = self.pick([[-1, shape[-1]], [0, -1], [1, *shape], [int(np.prod(shape))]], "target")
        filled = np.zeros(shape).reshape([shape[k] if v == 0 else v for k, v in enumerate(target)]).shape
        if len(filled) <= 4:
            self.emit("Reshape", [x, self.integers(target)], filled)

    def _transpose(self, x, shape):
        perm = self.data.draw(st.permutations(range(len(shape))), label="perm")
        self.emit("Transpose", [x], [shape[p] for p in perm], perm=list(perm))

    def _concat(self, x, shape):
        axis = self.data.draw(st.integers(0, len(shape) - 1), label="axis")
        result = [2 * d if k == axis else d for k, d in enumerate(shape)]
        if max(result) <= 16:
            self.emit("Concat", [x, x], result, axis=axis - len(shape) if axis % 2 else axis)

    def _split(self, x, shape):
        if shape[-1] > 1:
            sizes = [1, shape[-1] - 1]
            names = [self.name() + "a", self.name() + "b"]
            self.nodes.append(helper.make_node("Split", [x, self.integers(sizes)], names, axis=-1))
            self.shapes[names[1]] = (*shape[:-1], sizes[1])

    def _slice(self, x, shape):
        step = self.pick([1, 2, -1], "step")
        bounds = ([0], [10**6]) if step > 0 else ([10**6], [-(10**6)])
        length = len(range(0, shape[-1], abs(step)))
        inputs = [x, *(self.integers(v) for v in (*bounds, [-1], [step]))]
        self.emit("Slice", inputs, (*shape[:-1], length))

    def _softmax(self, x, shape):
        axis = self.data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
        self.emit("Softmax", [x], shape, axis=axis)

    def _gather(self, x, shape):
        axis = self.data.draw(st.integers(0, len(shape) - 1), label="axis")
        chosen = [-1, 0]
        self.emit(
            "Gather",
            [x, self.integers(chosen)],
            [len(chosen) if k == axis else d for k, d in enumerate(shape)],
            axis=axis,
        )

    def _reduce(self, x, shape):
        kind = self.pick(["ReduceMean", "ReduceMax", "ReduceL2"], "reduction")
        self.emit(kind, [x], (*shape[:-1], 1), axes=[-1], keepdims=1)

    def _norm(self, x, shape):
        weights = [self.weight(shape[-1:]), self.weight(shape[-1:])]
        self.emit("LayerNormalization", [x, *weights], shape, epsilon=0.1)

    def _expand(self, x, shape):
        if len(shape) < 4:
            self.emit("Expand", [x, self.integers([2, *[1] * len(shape)])], (2, *shape))

    def _dynamic(self, x, shape):
        """Reshape to a shape that is computed in the graph, as exporters write ``view(x.size(0), -1)``."""
        size, first, rest = (f"s{len(self.nodes)}{k}" for k in "abc")
        self.nodes.append(helper.make_node("Shape", [x], [size]))
        self.nodes.append(helper.make_node("Gather", [size, self.integers([0])], [first], axis=0))
        self.nodes.append(helper.make_node("Concat", [first, self.integers([-1])], [rest], axis=0))
        self.emit("Reshape", [x, rest], (shape[0], int(np.prod(shape[1:]))))

    def model(self):
        outputs = [
            n for n in self.shapes if n != "x" and not any(n in node.input for node in self.nodes)
        ] or [self.name()]
        if outputs[0] not in self.shapes:
            self.emit("Identity", ["x"], self.shapes["x"])
            outputs = [next(reversed(self.shapes))]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shapes["x"])],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return model

    def feeds(self):
        return {"x": self.random.standard_normal(self.shapes["x"]).astype(np.float32)}


def build(data):
    builder = Builder(data)
    for _ in range(data.draw(st.integers(1, 12), label="steps")):
        builder.grow()
    return builder.model(), builder.feeds(), builder.random


def bridge(model, dtype=torch.float32):
    return TorchGraph(Model(ir.from_proto(model), Source(None, "", 0)), dtype=dtype)


def distance(found, expected):
    """Return the largest distance of an output, relative to its size or to 1."""
    return max(float(np.linalg.norm(found[n] - w) / max(np.linalg.norm(w), 1.0)) for n, w in expected.items())


@SETTINGS
@given(st.data())
def test_outputs_equal_onnxruntime(data):
    model, feeds, _ = build(data)
    graph = bridge(model)
    expected = runtime.open_session(model.SerializeToString(), optimization="none").run(feeds)
    found = graph.run(feeds)
    assert {n: a.shape for n, a in found.items()} == {n: a.shape for n, a in expected.items()}
    assert distance(found, expected) <= 1e-4
    again = graph.run(feeds)
    assert all(np.array_equal(again[n], found[n]) for n in found)
    assert set(graph.ways().values()) <= {"own"}


@SETTINGS
@given(st.data())
def test_gradients_equal_difference_quotients(data):
    model, feeds, random = build(data)
    graph = bridge(model, torch.float64)
    if not graph.trainable:
        return
    directions = {n: random.standard_normal(tuple(graph.weight(n).shape)) for n in graph.trainable}
    probe = {n: random.standard_normal(a.shape) for n, a in graph.run(feeds).items()}

    def value():
        return sum((o * torch.from_numpy(probe[n])).sum() for n, o in graph(feeds).items())

    def moved(size):
        with torch.no_grad():
            for n, d in directions.items():
                graph.weight(n).add_(torch.from_numpy(d), alpha=size)
            result = float(value())
            for n, d in directions.items():
                graph.weight(n).sub_(torch.from_numpy(d), alpha=size)
        return result

    value().backward()
    stopped = {refusal.where for refusal in graph.without_gradient()}
    grads = {n: graph.weight(n).grad for n in graph.trainable}
    assert {n for n, g in grads.items() if g is None} == stopped
    slope = sum(float((g * torch.from_numpy(directions[n])).sum()) for n, g in grads.items() if g is not None)
    step = 1e-6
    forward, backward = (moved(step) - moved(0)) / step, (moved(0) - moved(-step)) / step
    if abs(forward - backward) > 1e-3 * max(1.0, abs(slope)):
        return  # a kink (Relu, Max) lies within the step: no derivative to compare with
    assert abs((forward + backward) / 2 - slope) <= 1e-4 * max(1.0, abs(slope))


@SETTINGS
@given(st.data())
def test_a_changed_weight_is_never_missed(data):
    """Negative control: the comparison above fails once a weight differs, wherever it changes an output."""
    model, feeds, random = build(data)
    graph = bridge(model)
    expected = runtime.open_session(model.SerializeToString(), optimization="none").run(feeds)
    changed = {n: graph.model.array(n) + random.uniform(1, 2) for n in graph.trainable}
    graph.set_arrays(changed)
    double = bridge(model, torch.float64)
    before = double.run(feeds)
    double.set_arrays(changed)
    if distance(double.run(feeds), before) > 1e-3:
        assert distance(graph.run(feeds), expected) > 5e-4
