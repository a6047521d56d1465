"""Models that end in a decision (ArgMax, a threshold): trained and measured by what they decide by."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from text_graphs import proto_of

import onnxcompress
from onnxcompress import exporter
from onnxcompress.core.errors import DataError, UnsupportedError
from onnxcompress.engine.runtime import open_session
from onnxcompress.pipeline import sensitivity as stage
from onnxcompress.pipeline._original import open_original
from onnxcompress.recipe import build

FIXTURES = Path(__file__).parents[2] / "fixtures"


def decided():
    """Return the fixture with nothing but the class as its output."""
    proto = onnx.load(FIXTURES / "digits_cnn.onnx")
    scores = proto.graph.output[0].name
    proto.graph.node.append(helper.make_node("ArgMax", [scores], ["digit"], axis=1, keepdims=0))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("digit", TensorProto.INT64, ["N"]))
    return proto


def right(file, outputs=("digit",)):
    data = np.load(FIXTURES / "digits.npz")
    session = open_session(file)
    assert [o.name for o in session.outputs] == list(outputs)
    found = session.run({session.inputs[0].name: data["x_test"].astype(np.float32)})
    return float(np.mean(found["digit"] == data["y_test"]))


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        (["magnitude", "finetune"], {"target": "macs=0.5", "importance": "taylor", "epochs": 1}),
        (["vib"], {"target": "macs=0.6", "epochs": 1, "after": 1}),
        (["lc-quant"], {"bits": 4, "steps": 2, "mix": False}),
        (["int8"], {"way": "static"}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("labels", ["labels", "no labels"])
def test_a_classifier_without_scores_is_trained_and_measured(tmp_path, methods, options, labels):
    target, data = tmp_path / "out.onnx", FIXTURES / "digits.npz"
    given = {k: v for k, v in np.load(data).items() if labels == "labels" or k.startswith("x")}
    np.savez(tmp_path / "data.npz", **given)
    run = onnxcompress.compress(
        decided(), data=tmp_path / "data.npz", output=target, method=methods, **options
    ).run
    after = right(target)
    assert after > 0.9
    if labels == "labels":
        assert run.accuracy.after == pytest.approx(after)
        assert run.accuracy.before == pytest.approx(right(decided().SerializeToString()))
    else:
        assert run.accuracy is None
    original, believed = run.comparisons
    assert [o.name for o in original.outputs] == [o.name for o in believed.outputs] == ["digit", "scores"]
    digit, scores = original.outputs
    assert digit.relative_l2 is None
    assert digit.top1_agreement == scores.top1_agreement > 0.9
    assert run.models[1].size_bytes == target.stat().st_size
    assert any("holds the scores that decide: 'scores', which does" in w for w in run.warnings)


def with_columns():
    """Return the classifier with one output for each class beside its decision, as scikit-learn's may be."""
    proto = decided()
    scores = next(n.input[0] for n in proto.graph.node if n.op_type == "ArgMax")
    columns = [f"class_{k}" for k in range(10)]
    proto.graph.node.append(helper.make_node("Split", [scores], columns, axis=1))
    proto.graph.output.extend(helper.make_tensor_value_info(c, TensorProto.FLOAT, ["N", 1]) for c in columns)
    return proto


def with_maps():
    """Return the classifier with a map of class to score beside its decision, scikit-learn's usual export."""
    proto = decided()
    scores = next(n.input[0] for n in proto.graph.node if n.op_type == "ArgMax")
    node = helper.make_node(
        "ZipMap", [scores], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[*range(10)]
    )
    proto.graph.node.append(node)
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    value = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, value))
    proto.graph.output.append(helper.make_value_info("maps", kind))
    return proto


@pytest.mark.parametrize("made", [with_columns, with_maps])
def test_labels_belong_to_the_decision_where_scores_come_one_by_one(tmp_path, made):
    """Class numbers fit an output that is one number an example, and would ruin it."""
    target, data = tmp_path / "out.onnx", FIXTURES / "digits.npz"
    names = [o.name for o in made().graph.output]
    run = onnxcompress.compress(
        made(), data=data, output=target, method=["magnitude", "finetune"], target="macs=0.6", epochs=1
    ).run
    assert run.accuracy.metric == "top1"
    assert run.accuracy.before == pytest.approx(right(made().SerializeToString(), names))
    assert run.accuracy.after == pytest.approx(right(target, names))
    assert run.accuracy.after > 0.9


@pytest.mark.parametrize("whole", [False, True])
def test_a_regression_beside_a_decision_keeps_its_labels(tmp_path, whole):
    """Labels are for the number where the original is good at it, also where they could name classes."""
    body = "h = MatMul (x, w) r = Relu (h) y = MatMul (r, v) s = MatMul (r, u) d = ArgMax <axis = 1> (s)"
    rng = np.random.default_rng(0)
    weights = {"w": (4, 640), "v": (0.02 * rng.normal(size=(640, 1))).astype(np.float32), "u": (640, 9)}
    model = proto_of(body, "float[N, 4] x", "float[N, 1] y, int64[N, 1] d", weights)
    x = rng.normal(size=(1200, 4)).astype(np.float32)
    y = open_session(model.SerializeToString()).run({"x": x})["y"]
    y, x = y[(y > 0) & (y < 8)].reshape(-1, 1), x[((y > 0) & (y < 8)).ravel()]
    labels = y.round().astype(np.int64) if whole else y
    for shift, told in ((0, False), *(((20.5, True),) if not whole else ())):
        np.savez(tmp_path / "data.npz", x=x, labels=labels + shift)
        run = onnxcompress.compress(
            model, data=tmp_path / "data.npz", method="lc-quant", bits=8, mode="dc"
        ).run
        assert run.accuracy.metric == "mse"
        assert any("the labels' own mean" in warning for warning in run.warnings) == told


def test_labels_that_nothing_can_be_held_to_are_left_out(tmp_path):
    body = "h = MatMul (x, w) r = Relu (h) z = MatMul (r, v) c = NonZero (z) y = ReduceSum (c)"
    model = proto_of(body, "float[N, 4] x", "int64[1, 1] y", {"w": (4, 64), "v": (64, 3)})
    x = np.ones((20, 4), np.float32)
    data = tmp_path / "data.npz"
    np.savez(data, x=x, labels=np.arange(20) % 2)
    run = onnxcompress.compress(model, data=data, method="magnitude", keep=0.5).run
    assert run.accuracy is None
    with pytest.raises(DataError, match=r"labels 'labels' cannot be used .*no output of real numbers"):
        onnxcompress.compress(
            model, data=data, data_options={"labels": "labels"}, method="magnitude", keep=0.5
        )


def test_damage_is_measured_by_what_decides():
    ranked = stage.sensitivity(decided(), build(["lc-quant"], {"bits": 2}), examples=12)
    assert all(0 < layer.relative_l2 < 2 for layer in ranked.run.sensitivity.layers)


def test_comparing_files_tells_how_many_decisions_are_equal(tmp_path):
    before = tmp_path / "before.onnx"
    onnx.save(decided(), before)
    onnxcompress.compress(before, output=tmp_path / "after.onnx", method="lc-quant", bits=2, mode="dc")
    run = onnxcompress.compare(before, tmp_path / "after.onnx", data=FIXTURES / "digits.npz", benchmark=False)
    (output,) = run.comparisons[0].outputs
    assert output.relative_l2 is None
    assert 0.5 < output.top1_agreement < 1
    assert run.accuracy.after == pytest.approx(right(tmp_path / "after.onnx"))


def test_labels_of_pixels_fit_a_decision_for_each(tmp_path):
    """The class axis is gone from the output of a segmentation."""
    body = (
        "h = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0) r = Relu (h) "
        "s = Conv <kernel_shape = [1, 1]> (r, w1) y = ArgMax <axis = 1, keepdims = 0> (s)"
    )
    rng = np.random.default_rng(0)
    weights = {"w0": (32, 2, 3, 3), "w1": (3, 32, 1, 1)}
    model = proto_of(body, "float[N, 2, 8, 8] x", "int64[N, 8, 8] y", weights)
    x = rng.normal(size=(60, 2, 8, 8)).astype(np.float32)
    (y,) = open_session(model.SerializeToString()).run({"x": x}).values()
    np.savez(tmp_path / "data.npz", x=x, y=y)
    run = onnxcompress.compress(
        model,
        data=tmp_path / "data.npz",
        data_options={"labels": "y"},
        method=["magnitude", "finetune"],
        keep=0.7,
        epochs=2,
    ).run
    assert run.accuracy.before == 1.0
    assert run.accuracy.after > 0.8


def test_what_cannot_be_shown_is_left_as_it_is(tmp_path, monkeypatch):
    def too_large(model):
        raise UnsupportedError("the model is larger than 2 GiB")

    monkeypatch.setattr(exporter, "dense_bytes", too_large)
    onnx.save(decided(), tmp_path / "model.onnx")
    opened = open_original(tmp_path / "model.onnx", 1)
    assert opened.scores == ()
    assert opened.witness == opened.file
    assert [o.name for o in opened.session.outputs] == ["digit"]
