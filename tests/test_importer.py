"""Import: what is accepted in every place a weight can sit, and one sentence for everything that is not."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from sameness import differences

from onnxcompress import importer
from onnxcompress.core.errors import ModelImportError, OnnxCompressError, UsageError
from onnxcompress.core.model import Home
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.engine import limits, runtime
from onnxcompress.engine.proto import to_proto
from onnxcompress.engine.storage import stored

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FLOAT = TensorProto.FLOAT
info = helper.make_tensor_value_info


def gemm(weight, **fields):
    """x @ W with W as given: an array, or a TensorProto."""
    tensor = weight if isinstance(weight, onnx.TensorProto) else numpy_helper.from_array(weight, "W")
    kind = tensor.data_type
    rows, columns = tensor.dims
    nodes = [helper.make_node("MatMul", ["x", "W"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [info("x", kind, ["N", rows])], [info("y", kind, ["N", columns])], [tensor]
    )
    settings = {"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8}
    return helper.make_model(graph, **(settings | fields))


def saved(tmp_path, model):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def refusal(source, error=ModelImportError):
    with pytest.raises(error) as caught:
        importer.load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert "Traceback" not in message
    return message


W = np.arange(6, dtype=np.float32).reshape(3, 2)


# --- what is accepted -------------------------------------------------------------------------------------


def test_three_kinds_of_source_give_the_same_weights(tmp_path):
    proto = gemm(W)
    before = proto.SerializeToString()
    graph = ir.from_proto(gemm(W))
    for source in (saved(tmp_path, proto), str(saved(tmp_path, proto)), proto, graph):
        model = importer.load(source)
        assert list(model.weights) == ["W"]
        assert np.array_equal(model.array("W"), W)
        assert len(model.source.sha256) == 64
    assert proto.SerializeToString() == before


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
def test_every_floating_type_is_kept(dtype):
    w = W.astype(dtype)
    tensor = helper.make_tensor(
        "W", helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), W.shape, w.tobytes(), raw=True
    )
    cast = helper.make_node("Cast", ["W"], ["V"], to=FLOAT)
    nodes = [cast, helper.make_node("MatMul", ["x", "V"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [info("x", FLOAT, ["N", 3])], [info("y", FLOAT, ["N", 2])], [tensor]
    )
    model = importer.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert model.weights["W"].dtype == np.dtype(dtype)
    assert model.array("W").dtype == np.dtype(dtype)
    assert np.array_equal(model.array("W").astype(np.float32), W)


def test_defaults_of_inputs_are_weights():
    model = importer.load(FIXTURES / "ir3.onnx")
    assert model.ir.ir_version == 3
    assert model.weights["fc1.weight"].home is Home.INITIALIZER
    assert len(model.ir.graph.inputs) == 7


def test_constants_are_weights_and_stay_constants():
    model = importer.load(FIXTURES / "constants.onnx")
    assert {w.home for w in model.weights.values()} == {Home.CONSTANT}
    assert len(model.weights) == 6


@pytest.mark.parametrize(("attribute", "value"), [("value_floats", [1.0, 2.0]), ("value_float", 3.0)])
def test_constants_given_as_plain_numbers_are_weights(attribute, value):
    nodes = [
        helper.make_node("Constant", [], ["c"], **{attribute: value}),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [info("x", FLOAT, [2])], [info("y", FLOAT, [2])])
    model = importer.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert np.array_equal(model.array("c"), np.array(value, np.float32))
    assert model.weights["c"].shape == np.shape(value)


def test_weights_of_branches_have_names_of_their_own():
    model = importer.load(FIXTURES / "if.onnx")
    nested = [n for n in model.weights if "/" in n]
    assert len(model.weights) == 10
    assert sorted({n.split("/")[0] for n in nested}) == ["choose.else_branch", "choose.then_branch"]
    then, other = (model.array(f"choose.{b}/fc2.weight") for b in ("then_branch", "else_branch"))
    assert np.array_equal(2 * then, other)


def test_nodes_of_one_name_do_not_hide_weights():
    def branch(value):
        constant = helper.make_node(
            "Constant", [], ["c"], value=numpy_helper.from_array(np.float32([value] * 2))
        )
        return helper.make_graph([constant], "b", [], [info("c", FLOAT, [2])])

    nodes = [  # the second has no name and is the second node: the first one's name would be made up for it
        helper.make_node("If", ["p"], [f"y{k}"], name=name, then_branch=branch(k), else_branch=branch(-k))
        for k, name in ((1, "If_1"), (2, ""))
    ]
    outputs = [info("y1", FLOAT, [2]), info("y2", FLOAT, [2])]
    graph = helper.make_graph(nodes, "g", [info("p", TensorProto.BOOL, [])], outputs)
    model = importer.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert sorted(float(model.array(n)[0]) for n in model.weights) == [-2, -1, 1, 2]


def test_external_data_is_mapped_from_the_models_folder():
    model = importer.load(FIXTURES / "external.onnx")
    plain = importer.load(FIXTURES / "ir3.onnx")
    assert np.array_equal(model.array("fc1.weight"), plain.array("fc1.weight"))
    assert isinstance(model.weights["fc1.weight"].value.const_value, ir.ExternalTensor)
    sizes = [(FIXTURES / f).stat().st_size for f in ("external.onnx", "external.bin")]
    assert model.source.size_bytes == sum(sizes)


def test_an_onnx_ir_model_with_external_data(tmp_path):
    graph = ir.load(FIXTURES / "external.onnx")
    model = importer.load(graph)
    assert np.array_equal(model.array("fc1.bias"), importer.load(FIXTURES / "ir3.onnx").array("fc1.bias"))
    assert model.source.path is None
    assert isinstance(graph.graph.initializers["fc1.bias"].const_value, ir.ExternalTensor)


def test_infinities_and_single_nans_are_accepted():
    mask = np.array([[0, -np.inf], [0, 0], [np.inf, 0]], np.float32)
    assert np.isneginf(importer.load(gemm(mask)).array("W")).any()


def test_a_checker_nit_is_no_reason_to_refuse():
    model = gemm(W)
    model.graph.name = ""  # the checker insists on a name, onnxruntime does not
    with pytest.raises(onnx.checker.ValidationError):
        onnx.checker.check_model(model)
    assert list(importer.load(model).weights) == ["W"]


@pytest.mark.parametrize("ir_version", range(3, 14))
def test_every_ir_version_of_onnxruntime(ir_version):
    model = gemm(W, ir_version=ir_version)
    if ir_version < 4:
        model.graph.input.append(info("W", FLOAT, W.shape))
    assert importer.load(model).ir.ir_version == ir_version


@pytest.mark.parametrize("opset", [7, 9, 13, 18, 21, 24])
def test_opsets_are_kept(opset):
    model = gemm(W, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    assert importer.load(model).ir.opset_imports[""] == opset


def packed():
    """The digits MLP with two of its layers as codebooks, as the exporter writes them."""
    model = importer.load(FIXTURES / "digits_mlp.onnx")
    names = ("fc1.weight", "fc2.weight")
    codebooks = AdaptiveCodebook(entries=4).project([model.array(n) for n in names])
    changed = model.with_encodings(dict(zip(names, codebooks, strict=True)), "test")
    return changed, to_proto(stored.lower(changed)[0])


def test_encodings_we_wrote_are_recognised():
    changed, proto = packed()
    again = importer.load(proto)
    assert set(again.encodings) == set(changed.encodings)
    for name in changed.weights:
        assert np.array_equal(again.array(name), changed.array(name))
    assert not list(differences(proto, to_proto(stored.lower(again)[0])))
    assert not importer.load(FIXTURES / "digits_mlp.onnx").encodings


# --- files that are no models -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<html></html>", "HTML"),
        (b"\x18\x00\x00\x00ORTM", "ORT format"),
        (b"hello, this is no model", "not an ONNX model"),
        (b"\x08\x08", "no graph"),
        (bytes(range(200, 256)), "not an ONNX model"),
    ],
)
def test_what_is_no_onnx_file(tmp_path, content, why):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert why in refusal(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9, 0.999])
def test_truncated(tmp_path, part):
    data = (FIXTURES / "digits_mlp.onnx").read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(data[: int(len(data) * part)])
    assert "truncated" in refusal(path)


def test_missing_folder_and_unreadable(tmp_path):
    assert "there is no such file" in refusal(tmp_path / "none.onnx", UsageError)
    assert "is a folder" in refusal(tmp_path, UsageError)
    assert "no path" in refusal(7, UsageError)
    assert "null byte" in refusal("a\0b.onnx", UsageError)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_devices_are_not_read():
    assert "not a regular file" in refusal("/dev/zero", UsageError)


def test_relative_paths_follow_the_working_directory(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, gemm(W))
        monkeypatch.chdir(tmp_path / name)
        (tmp_path / name / "onnx.py").write_text("raise SystemExit('imported from the working directory')")
        assert importer.load("model.onnx").source.path == "model.onnx"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path):
    path = saved(tmp_path, gemm(W))
    path.chmod(0)
    assert "Permission denied" in refusal(path, UsageError)


def test_exit_codes(tmp_path):
    with pytest.raises(OnnxCompressError) as missing:
        importer.load(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    with pytest.raises(OnnxCompressError) as bad:
        importer.load(tmp_path / "bad.onnx")
    assert (missing.value.exit_code, bad.value.exit_code) == (2, 4)


# --- models that onnxruntime, or a limit, refuses ---------------------------------------------------------


def test_unknown_operator_and_new_ir_version():
    model = gemm(W)
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert "no operator com.example:MatMul" in refusal(model)
    assert "IR version" in refusal(gemm(W, ir_version=99))


def test_undefined_input():
    model = gemm(W)
    model.graph.node[0].input[1] = "nowhere"
    assert "nowhere" in refusal(model)


@pytest.mark.parametrize("rows", [slice(0, 1), slice(None)])
def test_nan_weights_are_named(rows):
    w = W.copy()
    w[rows, 1] = np.nan
    assert "weight 'W' holds NaN" in refusal(gemm(w))
    assert "weight 'W' holds NaN" in refusal(gemm(w.astype(np.float16)))


def test_all_problems_are_told_at_once():
    model = gemm(W)
    for name in ("a", "b"):
        tensor = numpy_helper.from_array(W, name)
        tensor.raw_data = tensor.raw_data[:-1]
        model.graph.initializer.append(tensor)
    bad = helper.make_tensor("c", FLOAT, [1], [1.0])
    bad.dims[:] = [-1]
    model.graph.initializer.append(bad)
    with pytest.raises(ModelImportError) as caught:
        importer.load(model)
    assert len(caught.value.problems) == 3
    assert all(f"'{n}'" in str(caught.value) for n in "abc")


@pytest.mark.parametrize("number", [0, 99])
def test_unsupported_element_type(number):
    model = gemm(W)
    model.graph.initializer[0].data_type = number
    assert f"unsupported element type (number {number})" in refusal(model)


def test_no_data_for_a_large_shape():
    model = gemm(W)
    huge = onnx.TensorProto(name="huge", data_type=FLOAT, dims=[2**40, 2**20])
    model.graph.initializer.append(huge)
    assert "'huge'" in refusal(model)


def laughs(depth, *, circle=False):
    """Functions that each call the one below twice: 2^depth nodes from a few bytes each."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for level in range(depth):
        callee = f"F{level - 1}" if level else ("F0" if circle else "Relu")
        domain = "own" if level or circle else ""
        body = [
            helper.make_node(callee, ["x"], ["h"], domain=domain),
            helper.make_node(callee, ["h"], ["y"], domain=domain),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["x"], ["y"], body, opsets))
    graph = helper.make_graph(
        [helper.make_node(f"F{depth - 1}", ["x"], ["y"], domain="own")],
        "g",
        [info("x", FLOAT, [2])],
        [info("y", FLOAT, [2])],
    )
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=8)


def test_functions_may_not_expand_without_bound():
    assert "nodes once its functions are expanded" in refusal(laughs(40))
    assert "calls itself" in refusal(laughs(1, circle=True))
    assert importer.load(laughs(4)).ir.functions


# --- external data ----------------------------------------------------------------------------------------


def external(tmp_path, **entries):
    """A model whose weight lies in a file; entries override what the file says about it."""
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    (folder / "w.bin").write_bytes(W.tobytes())
    model = gemm(W)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    found = {"location": "w.bin", "offset": "0", "length": "24"} | entries
    for key, value in found.items():
        tensor.external_data.add(key=key, value=value)
    return saved(folder, model)


def test_external_data_is_read(tmp_path):
    assert np.array_equal(importer.load(external(tmp_path)).array("W"), W)


def secret(tmp_path):
    (tmp_path / "secret.bin").write_bytes(W.tobytes())
    return tmp_path / "secret.bin"


def test_external_data_outside_the_folder_is_refused(tmp_path):
    target = secret(tmp_path)
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "symlink.bin").symlink_to(target)
    (folder / "folder").symlink_to(tmp_path)
    os.link(target, folder / "hardlink.bin")
    for location in ("../secret.bin", str(target), "symlink.bin", "folder/secret.bin", "x/../../secret.bin"):
        assert "lies outside the model's folder" in refusal(external(tmp_path, location=location))
    assert "hard link" in refusal(external(tmp_path, location="hardlink.bin"))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ({"location": "none.bin"}, "is missing: there is no file 'none.bin'"),
        ({"location": "."}, "is not a regular file"),
        ({"location": ""}, "names no file"),
        ({"offset": "8"}, "is too short for weight 'W': it has 24 bytes, 32 are needed"),
        ({"offset": "-8"}, "offset -8"),
        ({"length": "12"}, "states 12 bytes"),
        ({"length": "many"}, "not a number"),
    ],
)
def test_external_data_that_does_not_fit(tmp_path, entries, why):
    assert why in refusal(external(tmp_path, **entries))


def test_a_missing_file_is_told_once(tmp_path):
    (tmp_path / "model.onnx").write_bytes((FIXTURES / "external.onnx").read_bytes())
    with pytest.raises(ModelImportError) as caught:
        importer.load(tmp_path / "model.onnx")
    assert len(caught.value.problems) == 1


def test_external_data_of_a_model_in_memory(tmp_path):
    assert "in memory has no folder" in refusal(onnx.load(external(tmp_path), load_external_data=False))


# --- robustness -------------------------------------------------------------------------------------------


@functools.cache
def seeds():
    names = ("if.onnx", "digits_function.onnx", "external.onnx", "ir3.onnx")
    return (*((FIXTURES / n).read_bytes() for n in names), packed()[1].SerializeToString())


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_mutated_files_never_crash(tmp_path_factory, data):
    """Bytes changed, cut out or doubled: the model loads, or one of our errors says why not."""
    content = bytearray(data.draw(st.sampled_from(seeds())))
    header = min(len(content), 4000)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, header - 1) | st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "double"]))
        if kind == "set":
            content[at] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + data.draw(st.integers(1, 20))]
        else:
            content[at:at] = content[at : at + data.draw(st.integers(1, 20))]
        header = min(header, len(content))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(content)
    try:
        model = importer.load(path)
    except OnnxCompressError as error:
        message = str(error)
    else:
        message = str(len(model.weights))
    assert message
    assert "\n" not in message


def test_a_model_that_takes_the_child_down_is_one_sentence(monkeypatch):
    monkeypatch.setattr(importer, "load_check", os.abort)
    monkeypatch.setattr(importer, "isolated", lambda f, *a, **k: runtime.isolated(f, timeout_s=30))
    assert "SIGABRT" in refusal(gemm(W))


def test_a_limit_on_all_tensors_together(monkeypatch):
    monkeypatch.setattr(limits, "MAX_TENSOR_BYTES", 20)
    assert "its tensors take 24 bytes" in refusal(gemm(W))


def test_importing_needs_no_torch():
    code = "import sys; from onnxcompress import importer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
