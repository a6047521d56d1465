"""Export: the proof on every run, what it refuses, where it writes, what it leaves behind."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import exporter
from onnxcompress.core.errors import OutputError, VerificationError
from onnxcompress.core.model import Model, Source
from onnxcompress.encodings.codebook import AdaptiveCodebook, Codebook
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.runtime import open_session
from onnxcompress.engine.storage import stored

RNG = np.random.default_rng(0)


def listed(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def net(seed: int = 0, hidden: int = 120) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    arrays = {
        "a.weight": rng.normal(size=(hidden, 64)).astype(np.float32),
        "a.bias": rng.normal(size=hidden).astype(np.float32),
        "b.weight": rng.normal(size=(10, hidden)).astype(np.float32),
        "scale": np.array(0.5, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["h"], name="first", transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "b.weight"], ["z"], transB=1),
            helper.make_node("Mul", ["z", "scale"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
        doc_string="kept",
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    proto.producer_name, proto.model_version = "somebody", 3
    helper.set_model_props(proto, {"author": "me"})
    return proto


def compressed(entries: int = 4, source: str | None = None) -> Model:
    model = Model(from_proto(net()), Source(source, "", 10**9))
    names = ("a.weight", "b.weight")
    found = {n: AdaptiveCodebook(entries).project([model.array(n)])[0] for n in names}
    return model.with_encodings(found, "test")


def test_what_is_written_computes_what_was_decided(tmp_path: Path) -> None:
    model = compressed()
    result = exporter.export(model, tmp_path / "out.onnx")
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    packed = open_session(result.path).run({"x": x})["y"]
    dense = open_session(exporter.dense_bytes(model)).run({"x": x})["y"]
    assert packed.tobytes() == dense.tobytes()
    assert result.size_bytes == result.path.stat().st_size
    assert listed(tmp_path) == ["out.onnx"]


def test_sizes_that_are_known_are_not_guessed(tmp_path: Path) -> None:
    """A network that was traced at one length runs at no other, whatever its inputs say."""
    proto = net()
    proto.graph.node[0].input[0] = "flat"
    proto.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["flat"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([37, 64]), "shape"))
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[1].ClearField("dim_value")
    dims[0].dim_param, dims[1].dim_param = "rows", "columns"
    model = Model(from_proto(proto), Source(None, "", 10**9))
    model = model.with_encodings(compressed().encodings, "test")
    with pytest.raises(VerificationError, match="found no inputs"):
        exporter.export(model, tmp_path / "out.onnx", shapes={})
    assert exporter.export(model, tmp_path / "out.onnx", shapes={"x": (37, 64)}).path.exists()


def test_everything_else_is_kept(tmp_path: Path) -> None:
    exporter.export(compressed(), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert (written.producer_name, written.model_version, written.ir_version) == ("somebody", 3, 7)
    assert written.graph.doc_string == "kept"
    assert {p.key: p.value for p in written.metadata_props}["author"] == "me"
    assert written.opset_import[0].version == 13
    assert written.graph.input == net().graph.input
    assert [n for n in written.graph.node if n.name == "first"]
    kept = {t.name: t for t in written.graph.initializer}
    assert kept["a.bias"] == net().graph.initializer[1]


def test_without_encodings_the_file_is_the_input(tmp_path: Path) -> None:
    model = Model(from_proto(net()), Source(None, "", 0))
    exporter.export(model, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == net().SerializeToString()


class Lying(Codebook):
    """A codebook that emits something else than it decodes to."""

    def decode(self) -> np.ndarray:
        wrong = super().decode().copy()
        wrong.flat[5] += 1e-3
        return wrong


def test_an_encoding_that_lies_is_caught_and_nothing_is_written(tmp_path: Path) -> None:
    honest = compressed().encodings["a.weight"]
    assert isinstance(honest, Codebook)
    model = compressed().with_encodings({"a.weight": Lying(honest.codes, honest.entries)}, "lie")
    with pytest.raises(VerificationError, match=r"weight 'a\.weight'"):
        exporter.export(model, tmp_path / "out.onnx")
    assert listed(tmp_path) == []


class Lasting(Codebook):
    """A codebook whose decoding depends on the input, so that it cannot be folded."""

    def emit(self, site):  # type: ignore[no-untyped-def]
        value = super().emit(site)
        return site.node("RandomUniformLike", [value], {"low": 0.0, "high": 0.0, "seed": 1.0})


def test_decoding_that_does_not_fold_is_caught(tmp_path: Path) -> None:
    honest = compressed().encodings["a.weight"]
    assert isinstance(honest, Codebook)
    model = compressed().with_encodings({"a.weight": Lasting(honest.codes, honest.entries)}, "x")
    with pytest.raises(VerificationError, match="RandomUniformLike"):
        exporter.export(model, tmp_path / "out.onnx")
    assert listed(tmp_path) == []


def test_an_existing_output_is_only_replaced_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists"):
        exporter.export(compressed(), target)
    assert target.read_bytes() == b"mine"
    exporter.export(compressed(), target, overwrite=True)
    assert target.read_bytes() != b"mine"


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    source.write_bytes(net().SerializeToString())
    with pytest.raises(OutputError, match="is the input"):
        exporter.export(compressed(source=str(source)), tmp_path / "." / "in.onnx", overwrite=True)
    (tmp_path / "link.onnx").symlink_to(source)
    with pytest.raises(OutputError, match="is the input"):
        exporter.export(compressed(source=str(source)), tmp_path / "link.onnx", overwrite=True)


def test_a_folder_or_a_missing_folder_as_output(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        exporter.export(compressed(), tmp_path)
    with pytest.raises(OutputError, match="no folder"):
        exporter.export(compressed(), tmp_path / "missing" / "out.onnx")


def test_a_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        exporter.export(compressed(), tmp_path / "out.onnx")
    assert listed(tmp_path) == []


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporter, "_prove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        exporter.export(compressed(), tmp_path / "out.onnx")
    assert listed(tmp_path) == []


def test_large_models_keep_their_tensors_in_a_file_named_after_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "EXTERNAL_ABOVE", 1000)
    model = compressed()
    result = exporter.export(model, tmp_path / "big.onnx")
    assert listed(tmp_path) == ["big.onnx", "big.onnx.data"]
    assert result.size_bytes == sum(f.stat().st_size for f in tmp_path.iterdir())
    x = RNG.normal(size=(3, 64)).astype(np.float32)
    dense = open_session(exporter.dense_bytes(model)).run({"x": x})["y"]
    assert open_session(tmp_path / "big.onnx").run({"x": x})["y"].tobytes() == dense.tobytes()


def test_tensors_too_small_to_gain_stay_dense_with_quantised_values() -> None:
    model = Model(from_proto(net(hidden=3)), Source(None, "", 0))
    array = model.array("b.weight")
    model = model.with_encodings({"b.weight": AdaptiveCodebook(4).project([array])[0]}, "test")
    lowered, refusals = stored.lower(model)
    assert [r.where for r in refusals] == ["b.weight"]
    assert "more bytes" in refusals[0].why
    assert len(np.unique(lowered.graph.initializers["b.weight"].const_value.numpy())) == 4


def test_a_file_that_grew_is_said_to_have_grown(tmp_path: Path) -> None:
    model = Model(from_proto(net()), Source(None, "", 10))
    assert "grew" in exporter.export(model, tmp_path / "out.onnx").warnings[0]


def test_lifting_is_the_inverse_of_lowering(tmp_path: Path) -> None:
    model = compressed(7)
    exporter.export(model, tmp_path / "out.onnx")
    graph, encodings = stored.lift(from_proto(onnx.load(tmp_path / "out.onnx")))
    assert encodings.keys() == model.encodings.keys()
    for name, encoding in encodings.items():
        assert encoding.decode().tobytes() == model.encodings[name].decode().tobytes()
    again = Model(graph, Source(None, "", 0), encodings)
    exporter.export(again, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert exporter.dense_bytes(again) == exporter.dense_bytes(model) or _same_graph(again, model)


def _same_graph(a: Model, b: Model) -> bool:
    return [n.op_type for n in a.ir.graph] == [n.op_type for n in b.ir.graph]


def test_lifting_needs_no_metadata_and_leaves_other_graphs_alone() -> None:
    lowered, _ = stored.lower(compressed())
    lowered.metadata_props.clear()
    assert stored.lift(from_proto(to_proto(lowered)))[1].keys() == {"a.weight", "b.weight"}
    plain = from_proto(net())
    assert stored.lift(plain) == (plain, {})


def test_a_tampered_code_table_is_not_taken_for_ours() -> None:
    proto = to_proto(stored.lower(compressed())[0])
    for node in proto.graph.node:
        if node.op_type == "Mod":
            node.op_type = "Div"
    graph = from_proto(proto)
    assert stored.lift(graph) == (graph, {})


def test_weights_inside_branches(tmp_path: Path) -> None:
    def branch(name: str, seed: int) -> onnx.GraphProto:
        w = np.random.default_rng(seed).normal(size=(64, 40)).astype(np.float32)
        return helper.make_graph(
            [helper.make_node("MatMul", ["x", f"{name}.w"], [f"{name}.y"])],
            name,
            [],
            [helper.make_tensor_value_info(f"{name}.y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(w, f"{name}.w")],
        )

    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=branch("t", 1), else_branch=branch("e", 2))],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=8)
    model = Model(from_proto(proto), Source(None, "", 10**9))
    assert len(model.weights) == 2
    found = {n: AdaptiveCodebook(8).project([model.array(n)])[0] for n in model.weights}
    model = model.with_encodings(found, "test")
    result = exporter.export(model, tmp_path / "out.onnx")
    assert not result.refusals
    lifted, encodings = stored.lift(from_proto(onnx.load(result.path)))
    assert encodings.keys() == model.encodings.keys()
    assert isinstance(lifted, ir.Model)


def test_a_shared_weight_is_decoded_once() -> None:
    proto = net()
    proto.graph.node.append(helper.make_node("Gemm", ["x", "a.weight"], ["second"], transB=1))
    proto.graph.output.append(helper.make_tensor_value_info("second", TensorProto.FLOAT, None))
    model = Model(from_proto(proto), Source(None, "", 0))
    encoding = AdaptiveCodebook(4).project([model.array("a.weight")])[0]
    lowered, _ = stored.lower(model.with_encodings({"a.weight": encoding}, "test"))
    assert sum(n.name == "" or n.name is None for n in lowered.graph) >= 1
    assert len([n for n in lowered.graph if n.outputs[0].name == "a.weight"]) == 1
    assert len(next(n for n in lowered.graph if n.outputs[0].name == "a.weight").outputs[0].uses()) == 2
