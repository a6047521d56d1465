"""Models that end in a decision (ArgMax, a threshold): trained and measured by what they decide by."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from text_graphs import proto_of

import onnxcompress
from onnxcompress import exporter
from onnxcompress.core.errors import UnsupportedError
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


def right(file):
    data = np.load(FIXTURES / "digits.npz")
    session = open_session(file)
    assert [o.name for o in session.outputs] == ["digit"]
    (found,) = session.run({session.inputs[0].name: data["x_test"].astype(np.float32)}).values()
    return float(np.mean(found == data["y_test"]))


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        (["magnitude", "finetune"], {"target": "macs=0.5", "importance": "taylor", "epochs": 1}),
        (["vib"], {"target": "macs=0.6", "epochs": 1, "after": 1}),
        (["lc-quant"], {"bits": 4, "steps": 2}),
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
    assert any("'scores', which decides what they are" in w for w in run.warnings)


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
    opened = open_original(tmp_path / "model.onnx", {}, 1)
    assert opened.scores == ()
    assert opened.witness == opened.file
    assert [o.name for o in opened.session.outputs] == ["digit"]
