"""Random networks out of the blocks that make channels hard to follow, grown choice by choice.

Images are ``N C H W``, sequences ``N T C``. Each block keeps to shapes that came before, so that residuals
and concatenations reach far back. The choices come from hypothesis, or from a seed.
"""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

BATCH = 2
LIMIT = 16
"""Widest that channels get."""

ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "LeakyRelu", "HardSwish", "Elu", "Neg", "Softplus", "Cos"]
HOMES = ["initializer", "constant", "transposed", "reshaped", "double", "dequantized", "identity"]


class Drawn:
    """Choices by hypothesis, which shrinks them."""

    def __init__(self, data):
        self._data = data
        self.random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))

    def pick(self, options, label):
        return self._data.draw(st.sampled_from(list(options)), label=label)


class Seeded:
    """Choices by a seed."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)

    def pick(self, options, label):
        options = list(options)
        return options[int(self.random.integers(len(options)))]


class Net:
    """A graph that grows; ``shapes`` are those of its float tensors."""

    def __init__(self, choices, *, sequence=False):
        self.choices, self.random = choices, choices.random
        self.nodes, self.initializers, self.inputs, self.feeds = [], [], [], {}
        self.shapes, self._count, self._tables = {}, 0, []
        kind = self.pick(["embedded", "vectors"], "input") if sequence else "image"
        if kind == "embedded":
            words = self.random.integers(0, 9, (BATCH, 4))
            self._input("ids", TensorProto.INT64, words)
            self.embedding("ids", (BATCH, 4))
        else:
            shape = (BATCH, 4, 5) if sequence else (BATCH, 3, 4, 4)
            self._input("x", TensorProto.FLOAT, self.random.standard_normal(shape).astype(np.float32))
            self.shapes["x"] = shape

    # parts -------------------------------------------------------------------------------------------------

    def _input(self, name, kind, array):
        self.inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
        self.feeds[name] = array

    def pick(self, options, label):
        return self.choices.pick(options, label)

    def name(self, base="v"):
        self._count += 1
        return f"{base}{self._count}"

    def values(self, *shape, spread=1.0):
        return (self.random.standard_normal(shape) * spread).astype(np.float32)

    def weight(self, *shape):
        """Add a weight that keeps a signal's size, wherever files store weights, and return its name."""
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return self.constant(self.values(*shape, spread=1.3 / np.sqrt(fan)), self.pick(HOMES, "home"))

    def vector(self, size, around=0.0):
        return self.constant(around + self.values(size, spread=0.3), self.pick(HOMES[:2], "home"))

    def constant(self, array, home="initializer"):
        name = self.name("w")
        if home == "constant":
            self._node("Constant", [], [name], value=numpy_helper.from_array(array))
        elif home == "transposed" and array.ndim > 1:
            order = [int(k) for k in self.random.permutation(array.ndim)]
            stored = np.ascontiguousarray(array.transpose(np.argsort(order)))
            self._node("Transpose", [self._initializer(stored, name)], [name], perm=order)
        elif home == "reshaped" and array.ndim > 1:
            flat = array.reshape(array.shape[0], -1) if array.ndim > 2 else array[None]
            target = self._initializer(np.array(array.shape, np.int64), name + "_shape")
            self._node("Reshape", [self._initializer(flat, name), target], [name])
        elif home == "double":
            self._node("Cast", [self._initializer(array.astype(np.float64), name)], [name], to=1)
        elif home == "dequantized" and array.ndim > 1:
            scales = (np.abs(array).max(axis=tuple(range(1, array.ndim))) / 127 + 1e-6).astype(np.float32)
            codes = array / scales.reshape(-1, *[1] * (array.ndim - 1))
            stored = self._initializer(np.rint(codes).astype(np.int8), name)
            self._node(
                "DequantizeLinear", [stored, self._initializer(scales, name + "_scale")], [name], axis=0
            )
        elif home == "identity":
            self._node("Identity", [self._initializer(array, name)], [name])
        else:
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _initializer(self, array, name):
        self.initializers.append(numpy_helper.from_array(array, name + "_stored"))
        return name + "_stored"

    def integers(self, *values):
        return self.constant(np.array(values, np.int64), self.pick(HOMES[:2], "home of a shape"))

    def _node(self, op_type, inputs, outputs, **attributes):
        name = self.name("n") if self._count % 3 else ""
        self.nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))

    def emit(self, op_type, inputs, shape, **attributes):
        """Add a node with one output and return the output's name."""
        name = self.name()
        self._node(op_type, inputs, [name], **attributes)
        self.shapes[name] = tuple(int(d) for d in shape)
        return name

    # what there is to go on with ---------------------------------------------------------------------------

    def some(self, rank, label="value"):
        """Return a tensor of this rank, one of the last more often."""
        found = [n for n, shape in self.shapes.items() if len(shape) == rank and shape[0] == BATCH]
        return self.pick([*found[-3:], *found[-2:], *found], label) if found else None

    def like(self, name, label="other"):
        """Return a tensor of the same shape, itself if there is none else."""
        return self.pick([n for n, s in self.shapes.items() if s == self.shapes[name]], label)

    def width(self):
        return self.pick([4, 6, 8, 2, 3, 12], "width")

    # the same block for images and sequences ---------------------------------------------------------------

    def activation(self, x):
        return self.emit(self.pick(ACTIVATIONS, "activation"), [x], self.shapes[x])

    def add(self, x):
        return self.emit(self.pick(["Add", "Sub", "Mul", "Max"], "binary"), [x, self.like(x)], self.shapes[x])

    def affine(self, x, axis):
        """Multiply by, or add, a constant for each channel."""
        shape = [self.shapes[x][axis], *[1] * (len(self.shapes[x]) - axis - 1)]
        array = 1 + self.values(*shape, spread=0.3)
        return self.emit(self.pick(["Mul", "Add"], "affine"), [x, self.constant(array)], self.shapes[x])

    def concat(self, x, axis):
        """Concatenate with tensors that differ in width only; also with itself."""
        shape = self.shapes[x]

        def fits(other):
            return len(other) == len(shape) and all(
                a == b for k, (a, b) in enumerate(zip(other, shape, strict=True)) if k != axis
            )

        parts = [x]
        for _ in range(self.pick([1, 1, 2], "parts")):
            others = [n for n, s in self.shapes.items() if fits(s)]
            parts.append(self.pick([x, *others[-4:]], "part"))
        width = sum(self.shapes[p][axis] for p in parts)
        if width > LIMIT:
            return x
        self.choices.random.shuffle(parts)
        whole = axis - len(shape) if self.pick([True, False], "negative axis") else axis
        return self.emit(
            "Concat", parts, [width if k == axis else d for k, d in enumerate(shape)], axis=whole
        )

    def split(self, x, axis):
        """Split in two or three, evenly or not; return a part."""
        shape = self.shapes[x]
        width = shape[axis]
        cuts = self.pick(
            [
                [width // 2, width - width // 2],
                [1, width - 1],
                [width // 3, width // 3, width - 2 * (width // 3)],
            ],
            "sizes",
        )
        if min(cuts) < 1:
            return x
        names = [self.name() for _ in cuts]
        self._node("Split", [x, self.integers(*cuts)], names, axis=axis)
        for name, size in zip(names, cuts, strict=True):
            self.shapes[name] = tuple(size if k == axis else d for k, d in enumerate(shape))
        return self.pick(names, "part of the split")

    def slice(self, x, axis):
        shape = self.shapes[x]
        width = shape[axis]
        first, last, step = self.pick(
            [
                (1, 10**9, 1),
                (0, -1, 1),
                (0, 10**9, 2),
                (1, 10**9, 2),
                (-1, -(10**9), -1),
                (width // 2, 10**9, 1),
            ],
            "slice",
        )
        length = len(range(*slice(first, None if last < -(10**8) else last, step).indices(width)))
        if length < 1:
            return x
        inputs = [x, self.integers(first), self.integers(last), self.integers(axis), self.integers(step)]
        return self.emit("Slice", inputs, [length if k == axis else d for k, d in enumerate(shape)])

    def gather(self, x, axis):
        """Pick channels by constant indices, some twice or never."""
        shape, width = self.shapes[x], self.shapes[x][axis]
        chosen = self.random.integers(-width, width, self.pick([2, 3, width], "picked"))
        indices = self.integers(*(int(i) for i in chosen))
        whole = [len(chosen) if k == axis else d for k, d in enumerate(shape)]
        return self.emit("Gather", [x, indices], whole, axis=axis)

    def reshape(self, x, target, shape):
        return self.emit("Reshape", [x, self.integers(*target)], shape)

    def embedding(self, ids, shape):
        width = self.width()
        table = self.constant(self.values(9, width))
        self._tables.append((table, width))
        return self.emit("Gather", [table, ids], (*shape, width))

    # the end -----------------------------------------------------------------------------------------------

    def head(self, x):
        """Make an output of three numbers, or of the tensor itself."""
        shape = self.shapes[x]
        kind = self.pick([*["flatten", "pool"] * 8, "raw"], "head")
        if kind == "raw":
            return self.emit("Identity", [x], shape)
        if kind == "pool" and len(shape) > 2:
            if len(shape) == 4:
                x = self.emit("GlobalAveragePool", [x], (*shape[:2], 1, 1))
                x = self.emit("Flatten", [x], shape[:2])
            else:
                x = self.emit("ReduceMean", [x, self.integers(1)], (shape[0], shape[2]), keepdims=0)
        else:
            x = self.emit("Flatten", [x], (shape[0], int(np.prod(shape[1:]))))
        return self.emit(
            "Gemm", [x, self.weight(3, self.shapes[x][1]), self.vector(3)], (shape[0], 3), transB=1
        )

    def model(self):
        """Return the model; every tensor that nothing reads goes on to an output."""
        used = {name for node in self.nodes for name in node.input}
        loose = [name for name in self.shapes if name not in used]
        outputs = [self.head(name) for name in loose] or [self.head(next(reversed(self.shapes)))]
        infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, self.shapes[n]) for n in outputs]
        graph = helper.make_graph(self.nodes, "random", self.inputs, infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model
