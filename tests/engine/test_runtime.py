"""onnxruntime behind our interface: types, errors, optimised graphs, probes in a child."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.errors import DataError, OnnxCompressError, OutputError, UnsupportedError
from onnxcompress.engine import isolation, runtime
from onnxcompress.engine.isolation import isolated
from onnxcompress.engine.measures.record import read_record

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"

FLOAT = TensorProto.FLOAT
info = helper.make_tensor_value_info
W = np.arange(6, dtype=np.float32).reshape(3, 2)


def build(nodes, inputs, outputs, initializers=(), opset=17):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def matmul():
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    return build(
        [node], [info("x", FLOAT, ["N", 3])], [info("y", FLOAT, ["N", 2])], [numpy_helper.from_array(W, "W")]
    )


X = np.ones((2, 3), np.float32)


def test_infos():
    session = runtime.open_session(matmul())
    assert session.inputs == (runtime.TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 3)),)
    assert session.outputs[0].shape == ("N", 2)
    assert session.providers == ("CPUExecutionProvider",)
    assert "CPUExecutionProvider" in runtime.providers()
    assert runtime.version()[0].isdigit()


def test_run_from_bytes_and_path(tmp_path):
    (tmp_path / "m.onnx").write_bytes(matmul())
    for model in (matmul(), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        assert np.array_equal(runtime.open_session(model, threads=2).run({"x": X})["y"], X @ W)


@pytest.mark.parametrize("level", ["all", "extended", "basic", "none"])
def test_levels_agree(level):
    assert np.array_equal(runtime.open_session(matmul(), optimization=level).run({"x": X}, ["y"])["y"], X @ W)


def test_bound_runs_write_to_the_same_place():
    call = runtime.open_session(matmul()).bind({"x": X})
    for _ in range(3):
        assert call() is None


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"x": X, "q": X}, "the model has no input 'q'"),
        ({"x": X.astype(np.float64)}, "Unexpected input data type"),
        ({"x": np.ones((2, 4), np.float32)}, "invalid dimensions"),
        ({"x": np.ones(3, np.float32)}, "Invalid rank"),
        ({"x": "text"}, "inputs"),
    ],
)
@pytest.mark.parametrize("bound", [False, True])
def test_wrong_feeds_are_the_users(feeds, words, bound):
    session = runtime.open_session(matmul())
    with pytest.raises(DataError, match=words) as caught:
        (session.bind if bound else session.run)(feeds)
    assert "\n" not in str(caught.value)


def test_a_failing_node_is_the_models():
    table = numpy_helper.from_array(W, "W")
    node = helper.make_node("Gather", ["W", "i"], ["y"], name="look_up")
    session = runtime.open_session(
        build([node], [info("i", TensorProto.INT64, ["N"])], [info("y", FLOAT, ["N", 2])], [table])
    )
    with pytest.raises(UnsupportedError, match="look_up") as caught:
        session.run({"i": np.array([99])})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [b"", b"no model", "no/such/file.onnx"])
def test_models_that_do_not_load(model):
    with pytest.raises(UnsupportedError, match="onnxruntime cannot load the model") as caught:
        runtime.open_session(model)
    assert "ONNXRuntimeError" not in str(caught.value)


@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.uint8, np.bool_, np.object_]
)
def test_types_pass_through(dtype):
    kind = TensorProto.STRING if dtype == np.object_ else helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("Identity", ["x"], ["y"])
    session = runtime.open_session(build([node], [info("x", kind, ["N"])], [info("y", kind, ["N"])]))
    x = np.array(["a", "bc"], object) if dtype == np.object_ else np.array([0, 1]).astype(dtype)
    y = session.run({"x": x})["y"]
    assert session.inputs[0].numpy == np.dtype(dtype)
    assert y.dtype == np.dtype(dtype)
    assert np.array_equal(x, y)
    session.bind({"x": x})()


def test_bfloat16_bits_survive():
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.BFLOAT16),
        helper.make_node("Identity", ["h"], ["y"]),
    ]
    session = runtime.open_session(
        build(nodes, [info("x", FLOAT, ["N"])], [info("y", TensorProto.BFLOAT16, ["N"])])
    )
    x = np.array([1.0, -2.5, 3.14159], np.float32)
    assert np.array_equal(session.run({"x": x})["y"], x.astype(ml_dtypes.bfloat16))


def test_sequences_and_maps():
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[3, 5])]
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    )
    output = onnx.ValueInfoProto(name="y")
    output.type.CopyFrom(kind)
    session = runtime.open_session(build(nodes, [info("x", FLOAT, [1, 2])], [output]))
    assert session.outputs[0].numpy is None
    assert session.run({"x": np.array([[0.25, 0.75]], np.float32)})["y"] == [{3: 0.25, 5: 0.75}]


def test_optimized_ops_see_folding_and_nested_graphs():
    cast = helper.make_node("Cast", ["h"], ["W"], to=FLOAT)
    packed = numpy_helper.from_array(W.astype(np.uint8), "h")
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    ends = [info("x", FLOAT, ["N", 3])], [info("y", FLOAT, ["N", 2])]
    assert runtime.optimized_ops(build([cast, node], *ends, [packed])) == Counter({("", "MatMul"): 1})
    assert runtime.optimized_ops(build([cast, node], *ends, [packed]), optimization="none")[("", "Cast")] == 1
    branch = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "b", [], [info("t", FLOAT, None)])
    choose = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [info("x", FLOAT, ["N", 3]), info("c", TensorProto.BOOL, [])]
    assert runtime.optimized_ops(build([choose], inputs, ends[1]))[("", "Neg")] == 2


def test_probe_measures_what_a_large_weight_takes(tmp_path):
    """32 MB of weights must be seen, and nothing of this process may be counted."""
    ballast = np.ones(2**25)
    size = 2000
    weight = numpy_helper.from_array(np.zeros((size, 2 * size), np.float32), "W")
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    ends = [info("x", FLOAT, ["N", size])], [info("y", FLOAT, ["N", 2 * size])]
    (tmp_path / "m.onnx").write_bytes(build([node], *ends, [weight]))
    probe = runtime.probe(tmp_path / "m.onnx", {"x": np.ones((1, size), np.float32)})
    assert probe.load_ms > 0
    assert 28e6 < probe.resident_bytes < 120e6
    assert probe.resident_bytes <= probe.peak_bytes < 200e6
    assert ballast[0] == 1


def test_probe_tells_why_a_model_does_not_run(tmp_path):
    (tmp_path / "m.onnx").write_bytes(matmul())
    with pytest.raises(OnnxCompressError, match="Invalid rank"):
        runtime.probe(tmp_path / "m.onnx", {"x": np.ones(3, np.float32)})
    with pytest.raises(UnsupportedError, match="cannot load"):
        runtime.probe(tmp_path / "none.onnx", {})


def test_error_texts_lose_codes_and_source_places():
    text = (
        "[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed:/x/core/graph.cc:12 void f() bad\n"
        "node\nStacktrace:\n at y"
    )
    assert runtime.one_line(RuntimeError(text)) == "graph.cc: void f() bad node"
    assert runtime.one_line(RuntimeError("")) == "RuntimeError"
    assert len(runtime.one_line(RuntimeError("x" * 9999))) == 500


# --- child processes --------------------------------------------------------------------------------------


def test_a_child_returns_results_and_errors():
    assert isolated(pow, 2, 10, timeout_s=60) == 1024
    with pytest.raises(UnsupportedError, match="cannot load"):
        isolated(runtime.load_check, b"no model", timeout_s=60)


def test_a_crash_a_hang_and_a_memory_bomb_are_one_sentence():
    with pytest.raises(UnsupportedError, match="SIGABRT"):
        isolated(os.abort, timeout_s=60)
    with pytest.raises(UnsupportedError, match="ended with status 3"):
        isolated(os._exit, 3, timeout_s=60)
    with pytest.raises(UnsupportedError, match="still not done after 1 s"):
        isolated(time.sleep, 30, timeout_s=1)
    with pytest.raises(UnsupportedError, match="out of memory"):
        isolated(bytearray, 2**36, timeout_s=60, memory_bytes=2**33)


def test_the_kept_child_is_reused_and_replaced_after_a_crash():
    first = isolated(os.getpid, timeout_s=60, fresh=False)
    assert isolated(os.getpid, timeout_s=60, fresh=False) == first != os.getpid()
    with pytest.raises(UnsupportedError):
        isolated(os.abort, timeout_s=60, fresh=False)
    second = isolated(os.getpid, timeout_s=60, fresh=False)
    assert second not in {first, os.getpid()}
    isolation.close_kept_child()


def test_no_place_for_the_optimised_graph_is_not_told_of_the_model(tmp_path):
    """A folder that is missing stands for a disk that is full: onnxruntime raises alike."""
    for good, raised in ((True, OutputError), (False, UnsupportedError)):
        model = (FIXTURES / "digits_mlp.onnx").read_bytes() if good else b"no model"
        with pytest.raises(raised) as told:
            runtime.open_session(model, optimized_to=tmp_path / "nowhere" / "optimized.onnx")
        assert ("TMPDIR" in str(told.value)) == good


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99, 1.0])
def test_a_record_that_breaks_off_is_told_of_the_disk(tmp_path, share):
    session = runtime.open_session(FIXTURES / "digits_mlp.onnx", profile_to=tmp_path / "record")
    session.run({"image": np.zeros((1, 1, 8, 8), np.float32)})
    path = session.end_profiling()
    text = path.read_text()
    path.write_text(text[: int(share * len(text.rstrip()))])
    if share == 1.0:
        assert read_record(path) == json.loads(text)
    else:
        with pytest.raises(OutputError, match="TMPDIR"):
            read_record(path)
