"""Old operator sets: raised where pruned weights need that to be packed, and only where it is safe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

sys.path.insert(0, str(Path(__file__).parent / "engine"))
from pruning_models import model_of

import onnxcompress
from onnxcompress import exporter, importer
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.engine import opset
from onnxcompress.engine.proto import to_proto

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 64)).astype(np.float32)
PRUNED = {"method": "magnitude", "granularity": "weight", "keep": 0.1}


def net(version: int = 9, width: int = 96, activation: str = "Relu", ir_version: int = 8) -> onnx.ModelProto:
    tensors = {"w1": RNG.normal(size=(width, 64)) / 8, "w2": RNG.normal(size=(5, width)) / 8}
    tensors |= {"b1": RNG.normal(size=width), "b2": RNG.normal(size=5)}
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "fc1", transB=1),
        helper.make_node(activation, ["h"], ["r"], "act"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "fc2", transB=1),
    ]
    proto = to_proto(model_of(nodes, tensors, (64,), 5, opset=version).ir)
    proto.ir_version = ir_version
    if ir_version < 4:
        proto.graph.input.extend(
            helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer
        )
    return proto


def written(proto: onnx.ModelProto, folder: Path, **options):
    target = folder / "out.onnx"
    result = onnxcompress.compress(proto, output=target, benchmark=False, **{**PRUNED, **options})
    found = onnx.load(target)
    onnx.checker.check_model(found, full_check=True)
    return result, found, target


@pytest.mark.parametrize(("version", "ir_version"), [(7, 3), (9, 4), (10, 6)])
def test_pruned_weights_are_packed(tmp_path, version, ir_version):
    proto = net(version, ir_version=ir_version)
    result, found, target = written(proto, tmp_path)
    assert opset.version(found) == 11
    assert target.stat().st_size < 0.35 * proto.ByteSize()
    said = f"operator set {version} was raised to 11"
    assert any(said in warning for warning in result.run.warnings)
    assert not any("stored whole" in warning for warning in result.run.warnings)
    # What is read again is pruned and packed, and computes what the old graph does with the pruned weights.
    again = importer.load(target)
    assert {e.kind for e in again.encodings.values()} == {"sparse"}
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(again.array(tensor.name), tensor.name))
    expected, got = (
        ort.InferenceSession(p.SerializeToString()).run(None, {"x": X})[0] for p in (proto, found)
    )
    np.testing.assert_array_equal(got, expected)


def test_a_late_operator_set_is_left_alone(tmp_path):
    result, found, _ = written(net(12), tmp_path)
    assert opset.version(found) == 12
    assert not any("raised" in warning for warning in result.run.warnings)


def test_where_the_file_would_not_get_smaller_it_stays(tmp_path):
    model = importer.load(net(9, width=4))
    little = Pruning(0.5).project([model.array("w2")])[0]
    done = exporter.export(model.with_encodings({"w2": little}, "test"), tmp_path / "out.onnx")
    assert opset.version(onnx.load(done.path)) == 9
    assert not done.warnings
    assert ["more bytes than the weight" in refusal.why for refusal in done.refusals] == [True]


def whole(proto, folder):
    result, found, target = written(proto, folder)
    assert opset.version(found) == opset.version(proto)
    assert target.stat().st_size > 0.9 * proto.ByteSize()
    assert any("stored whole, which saves nothing" in warning for warning in result.run.warnings)
    assert not any("raised" in warning for warning in result.run.warnings)


def test_what_the_converter_does_not_know_is_stored_whole(tmp_path, monkeypatch):
    def refuse(proto, least):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    whole(net(), tmp_path)


def test_a_conversion_that_changes_results_is_not_taken(tmp_path, monkeypatch):
    def wrong(proto, least):
        found = onnx.ModelProto.FromString(proto.SerializeToString())
        next(n for n in found.graph.node if n.op_type == "Relu").op_type = "Sigmoid"
        found.opset_import[0].version = least
        return found

    monkeypatch.setattr(onnx.version_converter, "convert_version", wrong)
    whole(net(), tmp_path)
