"""The converters of onnx2torch that the torch graph trusts, against onnxruntime; what keeps others out."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import Model, Source
from onnxcompress.engine import runtime
from onnxcompress.engine.graph import foreign_onnx2torch
from onnxcompress.engine.graph.foreign_onnx2torch import TRUSTED
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.ops._base import OPS, Node, NotCoveredError


def model_of(op_type, version, example):
    """Return a model of one node for an example of our own operators' contract, None where it has none."""
    values = [helper.np_dtype_to_tensor_dtype(a.dtype) if a is not None else 0 for a in example.inputs]
    attributes = {
        k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v
        for k, v in example.attributes.items()
    }
    names = [f"i{k}" if v else "" for k, v in enumerate(values)]
    outputs = [f"o{k}" for k in range(example.outputs)]
    node = helper.make_node(op_type, names, outputs, **attributes)
    inputs = [helper.make_tensor_value_info(n, v, None) for n, v in zip(names, values, strict=True) if v]
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name=o) for o in outputs])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def outcomes(op_type, version):
    """Yield "right", "wrong" or "refused" for each example, with its later inputs fixed and all varying."""
    for example in OPS["", op_type].examples(version):
        model = model_of(op_type, version, example)
        arrays = {f"i{k}": a for k, a in enumerate(example.inputs) if a is not None}
        try:
            want = list(runtime.open_session(model.SerializeToString()).run(arrays).values())
        except OnnxCompressError:
            continue
        node = next(iter(ir.from_proto(model).graph))
        for fixed in (range(1, len(example.inputs)), ()):
            stored = {k: numpy_helper.from_array(arrays[f"i{k}"]) for k in fixed if f"i{k}" in arrays}
            given = {int(n[1:]): torch.from_numpy(a) for n, a in arrays.items() if int(n[1:]) not in stored}
            yield outcome(node, version, stored, given, want)


def outcome(node, version, stored, given, want):
    try:
        types = {k: helper.np_dtype_to_tensor_dtype(t.numpy().dtype) for k, t in given.items()}
        found = foreign_onnx2torch.convert(node, {"": version}, stored, types)(*given.values())
    except Exception:
        return "refused"
    found = list(found) if isinstance(found, (tuple, list)) else [found]
    same = len(found) == len(want) and all(
        tuple(f.shape) == w.shape
        and str(f.dtype).endswith(w.dtype.name)
        and np.allclose(f.detach().numpy(), w, rtol=1e-4, atol=1e-6, equal_nan=True)
        for f, w in zip(found, want, strict=True)
    )
    return "right" if same else "wrong"


@pytest.mark.parametrize(("op_type", "version"), sorted(TRUSTED))
def test_trusted_converter_equals_onnxruntime_wherever_it_converts(op_type, version):
    found = list(outcomes(op_type, version))
    assert "right" in found
    assert "wrong" not in found


@pytest.mark.parametrize(("op_type", "version"), [("CumSum", 11), ("CumSum", 14), ("NonZero", 13)])
def test_converters_known_to_be_wrong_are_found_wrong_and_not_trusted(op_type, version):
    assert (op_type, version) not in TRUSTED
    assert "wrong" in list(outcomes(op_type, version))


def test_only_the_listed_version_and_the_default_domain_are_trusted():
    op_type, version = sorted(TRUSTED)[0]
    assert foreign_onnx2torch.trusted(Node(op_type, version))
    assert not foreign_onnx2torch.trusted(Node(op_type, version + 1))
    assert not foreign_onnx2torch.trusted(Node(op_type, version, domain="com.microsoft"))


def test_a_node_it_does_not_know_is_not_covered():
    node = ir.node("Riddle", [ir.val("x", ir.DataType.FLOAT)])
    with pytest.raises(NotCoveredError, match="refuses"):
        foreign_onnx2torch.convert(node, {"": 13}, {}, {0: 1})


def test_the_graph_takes_this_way_when_our_operator_refuses(monkeypatch):
    def refuse(node, *inputs):
        raise NotCoveredError("not today")

    OPS["", "MatMul"]  # everything is registered
    monkeypatch.setitem(OPS._entries, ("", "MatMul"), dataclasses.replace(OPS["", "MatMul"], forward=refuse))
    weight = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    inputs = [helper.make_tensor_value_info("x", 1, [2, 4])]
    outputs = [helper.make_tensor_value_info("y", 1, [2, 3])]
    graph = helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    bridge = TorchGraph(Model(ir.from_proto(model), Source(None, "", 0)))
    x = np.ones((2, 4), np.float32)
    outputs = bridge({"x": x})
    np.testing.assert_allclose(outputs["y"].detach().numpy(), x @ weight, rtol=1e-5)
    assert bridge.ways() == {"product": "onnx2torch"}
    assert bridge.reasons() == {"product": "NotCoveredError: not today"}
    assert bridge.without_gradient() == ()
    outputs["y"].sum().backward()
    np.testing.assert_allclose(bridge.weight("w").grad.numpy(), np.full((4, 3), 2.0))


def test_it_is_not_imported_before_it_is_needed():
    code = (
        "import sys, onnxcompress.engine.graph.torchgraph;"
        "print([m for m in ('onnx2torch', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
