"""Multiply-accumulates against closed forms."""

import subprocess
import sys
import textwrap
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.engine.measures.costs import Macs, count_macs

FLOAT = TensorProto.FLOAT


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: dict[str, tuple[int, ...] | np.ndarray],
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
    opset: int = 17,
) -> Model:
    rng = np.random.default_rng(0)
    arrays = {
        name: w if isinstance(w, np.ndarray) else rng.standard_normal(w).astype(np.float32)
        for name, w in weights.items()
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(a, name) for name, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    return Model(ir.serde.deserialize_model(proto), Source(None, "", 0))


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, name=attributes.pop("name", outputs[0]), **attributes)  # type: ignore[arg-type]


def test_gemm() -> None:
    m = model(
        [node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        {"x": ["N", 20]},
        ["y"],
        {"w": (30, 20), "b": (30,)},
    )
    assert count_macs(m, {"x": (7, 20)}) == Macs(7 * 20 * 30, {"y": 4200}, ())


def test_batched_matmul_of_activations() -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]), node("MatMul", ["x", "t"], ["y"])]
    m = model(nodes, {"x": ["N", 8, "T", 16]}, ["y"], {})
    assert count_macs(m, {"x": (2, 8, 50, 16)}).total == 2 * 8 * 50 * 50 * 16


@pytest.mark.parametrize(("group", "expected"), [(1, 12 * 6), (3, 12 * 2), (6, 12 * 1)])
def test_grouped_and_depthwise_convolution(group: int, expected: int) -> None:
    m = model(
        [node("Conv", ["x", "w"], ["y"], group=group, strides=[2, 2], pads=[1, 1, 1, 1])],
        {"x": ["N", 6, "H", "W"]},
        ["y"],
        {"w": (12, 6 // group, 3, 3)},
    )
    assert count_macs(m, {"x": (2, 6, 9, 9)}).total == 2 * 5 * 5 * expected * 9


def test_transposed_convolution_counts_each_input_once_a_weight() -> None:
    m = model(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])],
        {"x": [1, 4, 5, 5]},
        ["y"],
        {"w": (4, 7, 3, 3)},
    )
    assert count_macs(m, {"x": (1, 4, 5, 5)}).total == 5 * 5 * 4 * 7 * 9


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers(op: str, gates: int, directions: int) -> None:
    hidden, width, steps, batch = 32, 10, 6, 3
    direction = "forward" if directions == 1 else "bidirectional"
    m = model(
        [node(op, ["x", "w", "r"], ["y", "h"], hidden_size=hidden, direction=direction, name="rnn")],
        {"x": ["T", "N", width]},
        ["h"],
        {"w": (directions, gates * hidden, width), "r": (directions, gates * hidden, hidden)},
    )
    found = count_macs(m, {"x": (steps, batch, width)})
    matrices = directions * steps * batch * gates * hidden * (width + hidden)
    # The gates' element-wise products may be counted or not; they are of the order of `hidden` a step.
    assert matrices <= found.total <= matrices + directions * steps * batch * 4 * hidden
    assert found.unknown_ops == ()


def basic_block(
    name: str, x: str, width: int, out: int, *, stride: int, weights: dict
) -> list[onnx.NodeProto]:
    """A block of ResNet-18 without normalisation, which exporters fold anyway."""
    weights[f"{name}.1"], weights[f"{name}.2"] = (out, width, 3, 3), (out, out, 3, 3)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        node("Conv", [x, f"{name}.1"], [f"{name}a"], strides=[stride, stride], **pads),
        node("Relu", [f"{name}a"], [f"{name}b"]),
        node("Conv", [f"{name}b", f"{name}.2"], [f"{name}c"], **pads),
    ]
    if stride > 1:
        weights[f"{name}.3"] = (out, width, 1, 1)
        nodes.append(node("Conv", [x, f"{name}.3"], [f"{name}d"], strides=[stride, stride]))
    return [*nodes, node("Add", [f"{name}c", f"{name}d" if stride > 1 else x], [f"{name}e"])]


def test_resnet18_has_its_published_cost() -> None:
    weights: dict = {"stem": (64, 3, 7, 7), "fc": (1000, 512), "bias": (1000,)}
    nodes = [
        node("Conv", ["x", "stem"], ["s"], strides=[2, 2], pads=[3, 3, 3, 3]),
        node("MaxPool", ["s"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ]
    last, width = "p", 64
    for stage, out in enumerate((64, 128, 256, 512)):
        for block in range(2):
            stride = 2 if stage and not block else 1
            nodes += basic_block(f"s{stage}b{block}", last, width, out, stride=stride, weights=weights)
            last, width = f"s{stage}b{block}e", out
    nodes += [
        node("GlobalAveragePool", [last], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "fc", "bias"], ["y"], transB=1),
    ]
    m = model(nodes, {"x": ["N", 3, "H", "W"]}, ["y"], weights)
    found = count_macs(m, {"x": (1, 3, 224, 224)})
    # 1.81 billion multiply-adds of convolutions and the classifier; pooling and sums come to under 1 %.
    linear = sum(v for k, v in found.by_node.items() if k == "y" or k[-1] in "acds")
    assert linear == 1_814_073_344
    assert linear <= found.total < 1.01 * linear
    assert found.total == sum(found.by_node.values())
    assert found.unknown_ops == ()


def test_a_reshape_computed_in_the_graph_is_followed() -> None:
    # What PyTorch's exporter writes for x.view(x.size(0), -1).
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"]),
    ]
    constants = {"zero": np.array(0), "axes": np.array([0]), "rest": np.array([-1])}
    m = model(nodes, {"x": ["N", 3, 4]}, ["y"], {"w": (12, 5), **constants})
    assert count_macs(m, {"x": (6, 3, 4)}).total == 6 * 12 * 5


def test_a_shape_that_depends_on_values_is_measured() -> None:
    # NonZero: no inference can know the number of rows; of these inputs, two are above zero.
    nodes = [
        node("Greater", ["x", "zero"], ["b"]),
        node("NonZero", ["b"], ["at"]),
        node("Squeeze", ["at", "axes"], ["rows"]),
        node("Gather", ["w0", "rows"], ["g"], axis=0),
        node("MatMul", ["g", "w"], ["y"]),
    ]
    weights = {"zero": np.array(0, np.float32), "axes": np.array([0]), "w0": (4, 3), "w": (3, 5)}
    m = model(nodes, {"x": [4]}, ["y"], weights)
    x = np.array([1.0, -1.0, 1.0, -1.0], np.float32)
    assert count_macs(m, {"x": (4,)}, feeds={"x": x}) == Macs(2 * 3 * 5, {"y": 30}, ())


def branch(name: str, width: int) -> onnx.GraphProto:
    return helper.make_graph(
        [node("MatMul", ["x", f"w{width}"], [f"{name}_y"], name="mm")],
        name,
        [],
        [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)],
    )


def test_of_an_if_the_branch_that_costs_more() -> None:
    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Cast", ["m"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], ["y"], then_branch=branch("small", 3), else_branch=branch("large", 8), name="if"),
    ]
    m = model(nodes, {"x": ["N", 5]}, ["y"], {"w3": (5, 3), "w8": (5, 8)})
    found = count_macs(m, {"x": (2, 5)})
    assert found.by_node["if.else_branch/mm"] == 2 * 5 * 8
    assert "if.then_branch/mm" not in found.by_node
    assert found.unknown_ops == ()


def test_shapes_in_the_branch_that_is_not_taken_are_measured() -> None:
    # Each branch pads by an amount computed from values, which inference does not follow.
    def padded(name: str, width: int) -> onnx.GraphProto:
        nodes = [
            node("Mul", ["amount", "amount"], [f"{name}_a"], name=f"{name}_mul"),
            node("Pad", ["x", f"{name}_a"], [f"{name}_p"], name=f"{name}_pad"),
            node("MatMul", [f"{name}_p", f"w{width}"], [f"{name}_y"], name=f"{name}_mm"),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"{name}_y", FLOAT, None)])

    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "limit"], ["c"]),
        node("If", ["c"], ["y"], then_branch=padded("t", 8), else_branch=padded("e", 3), name="if"),
    ]
    weights = {"w3": (5, 3), "w8": (5, 8), "amount": np.array([1, 0, 2, 0]), "limit": np.array(9, np.float32)}
    m = model(nodes, {"x": ["N", 5]}, ["y"], weights)
    found = count_macs(m, {"x": (2, 5)}, feeds={"x": np.zeros((2, 5), np.float32)})
    assert found == Macs((1 + 2 + 4) * 5 * 8, {"if.then_branch/t_mm": 280}, ())


def loop(count: np.ndarray | None, ends: str) -> Model:
    body = helper.make_graph(
        [node("Identity", [ends], ["go_on"]), node("MatMul", ["h", "w"], ["next"], name="mm")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("h", FLOAT, [2, 5]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [2, 5]),
        ],
    )
    flags = {"true": np.array(True), "false": np.array(False), "w": (5, 5)}
    nodes = [node("Loop", ["n" if count is not None else "", "true", "x"], ["y"], body=body, name="loop")]
    weights = {**flags, **({"n": count} if count is not None else {})}
    return model(nodes, {"x": [2, 5]}, ["y"], weights)


def test_a_loop_of_known_length_counts_each_time() -> None:
    found = count_macs(loop(np.array(7), "go"), {"x": (2, 5)})
    assert found == Macs(7 * 2 * 5 * 5, {"loop.body/mm": 350}, ())


@pytest.mark.parametrize(("count", "ends"), [(None, "go"), (np.array(7), "false")])
def test_a_loop_of_unknown_length_is_said_to_be_unknown(count: np.ndarray | None, ends: str) -> None:
    found = count_macs(loop(count, ends), {"x": (2, 5)})
    assert found == Macs(0, {}, ("Loop (number of repetitions not known)",))


def test_a_scan_counts_what_it_scans() -> None:
    body = helper.make_graph(
        [node("MatMul", ["row", "w"], ["out"], name="mm")],
        "body",
        [helper.make_tensor_value_info("row", FLOAT, [2, 5])],
        [helper.make_tensor_value_info("out", FLOAT, [2, 3])],
    )
    m = model(
        [node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1, name="scan")],
        {"x": ["T", 2, 5]},
        ["y"],
        {"w": (5, 3)},
    )
    assert count_macs(m, {"x": (11, 2, 5)}).total == 11 * 2 * 5 * 3


def test_a_function_counts_at_each_call() -> None:
    dense = helper.make_function(
        "local",
        "Dense",
        ["a", "b"],
        ["c"],
        [node("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Dense", ["x", "w"], ["h"], name="one", domain="local"),
        helper.make_node("Dense", ["h", "w"], ["y"], name="two", domain="local"),
    ]
    m = model(nodes, {"x": ["N", 4]}, ["y"], {"w": (4, 4)}, functions=[dense], domains=["local"])
    found = count_macs(m, {"x": (3, 4)})
    assert found.total == 2 * 3 * 4 * 4
    assert len(found.by_node) == 2


def test_an_operator_nobody_knows_is_named() -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["h"], name="m", domain="com.example"),
        node("Relu", ["h"], ["y"]),
    ]
    m = model(nodes, {"x": [1, 4]}, ["y"], {}, domains=["com.example"])
    assert "com.example.Mystery" in count_macs(m, {"x": (1, 4)}).unknown_ops


def test_the_model_is_not_changed() -> None:
    m = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["N", 4]}, ["y"], {"w": (4, 6)})
    before = ir.serde.serialize_model(m.ir).SerializeToString(deterministic=True)
    count_macs(m, {"x": (3, 4)})
    assert ir.serde.serialize_model(m.ir).SerializeToString(deterministic=True) == before


def test_two_nodes_of_one_name_are_both_counted() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], name="same"), node("MatMul", ["h", "w"], ["y"], name="same")]
    m = model(nodes, {"x": ["N", 4]}, ["y"], {"w": (4, 4)})
    assert count_macs(m, {"x": (1, 4)}).total == 32


def test_counting_needs_no_torch() -> None:
    code = """
        import sys
        from onnxcompress.engine.measures import costs
        from onnxcompress.engine.measures import facts
        from onnxcompress import bench, verify
        assert "" in {domain for domain, _ in costs.OPS}
        sys.exit("torch" in sys.modules)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False).returncode == 0


def test_weights_beside_the_file_are_found_from_any_folder(tmp_path, monkeypatch) -> None:
    """Shapes that only a run shows: onnxruntime must not look for external data in the current folder."""
    m = model(
        [node("NonZero", ["x"], ["i"]), node("Cast", ["i"], ["c"], to=1), node("MatMul", ["w", "c"], ["y"])],
        {"x": [3]},
        ["y"],
        {"w": (5, 1)},
    )
    (tmp_path / "model").mkdir()
    ir.save(m.ir, tmp_path / "model" / "m.onnx", external_data="m.bin", size_threshold_bytes=0)
    monkeypatch.chdir(tmp_path)
    found = Model(ir.load(tmp_path / "model" / "m.onnx"), Source(None, "", 0))
    assert isinstance(found.ir.graph.initializers["w"].const_value, ir.ExternalTensor)
    assert count_macs(found, {"x": (3,)}, feeds={"x": np.array([1, 0, 2], np.float32)}).total == 5 * 2
