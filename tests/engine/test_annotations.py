"""What a file annotates of a tensor stays with its name, whatever form the tensor is stored in."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from text_graphs import proto_of

import onnxcompress

ENDS = ("float[N, 40] x", "float[N, 40] y")
WEIGHTS = {"w": (40, 64), "u": (64, 40)}


def annotated(body="h = MatMul (x, w) r = Relu (h) y = MatMul (r, u)"):
    """Return a network with scales of a weight, of a value between and of an input."""
    proto = proto_of(body, *ENDS, WEIGHTS)
    for name in ("w", "r", "x"):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), f"{name}_scale"))
        annotation = proto.graph.quantization_annotation.add(tensor_name=name)
        annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=f"{name}_scale")
    return proto


def annotations(proto):
    found = {a.tensor_name: a.SerializeToString() for a in proto.graph.quantization_annotation}
    assert len(found) == len(proto.graph.quantization_annotation), "each name once"
    return found


@pytest.mark.parametrize(
    ("method", "options"), [("half", {}), ("lc-quant", {"bits": 2}), ("magnitude", {"granularity": "weight"})]
)
def test_annotations_stay_with_the_names(method, options):
    proto = annotated()
    result = onnxcompress.compress(proto, method=method, benchmark=False, **options)
    assert "w" not in {t.name for t in result.model.graph.initializer}, "it is stored in another form"
    assert annotations(result.model) == annotations(proto)
    result.model.graph.initializer.append(numpy_helper.from_array(np.float32(3), "unread"))
    again = onnxcompress.compress(result.model, method="lossless", benchmark=False)
    assert annotations(again.model) == annotations(proto)
    scales = {"w_scale", "r_scale", "x_scale"}
    kept = {t.name for t in again.model.graph.initializer}
    assert scales <= kept
    assert "unread" not in kept


def test_tensors_that_annotations_name_stay_where_they_lie_in_a_second_file(tmp_path):
    onnx.save(annotated(), tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0)
    proto = onnx.load(tmp_path / "net.onnx")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(3), "unread"))
    onnx.save(proto, tmp_path / "net.onnx", save_as_external_data=True, size_threshold=0, location="data")
    result = onnxcompress.compress(tmp_path / "net.onnx", method="lossless", benchmark=False)
    assert {t.name for t in result.model.graph.initializer} == {"w", "u", "w_scale", "r_scale", "x_scale"}
    assert len(result.model.graph.quantization_annotation) == 3


def test_what_is_gone_is_not_annotated():
    proto = annotated()
    result = onnxcompress.compress(proto, method="lc-lowrank", rank=4, benchmark=False, include=("w",))
    names = {t.name for t in result.model.graph.initializer}
    names |= {name for node in result.model.graph.node for name in node.output}
    assert "w" not in names, "two factors are in its place"
    kept = annotations(proto)
    del kept["w"]
    assert annotations(result.model) == kept
