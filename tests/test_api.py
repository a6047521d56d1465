"""The Python interface: what may be given, what comes back, and that nothing given is changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

import onnxcompress
from onnxcompress.core.errors import (
    DataError,
    GateError,
    ModelImportError,
    NothingChangedError,
    OnnxCompressError,
    OutputError,
    UsageError,
)
from onnxcompress.core.run import Run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
MODEL = FIXTURES / "digits_mlp.onnx"
TRAINING = {"steps": 2, "epochs": 1, "lr": 0.05}


@pytest.fixture(scope="module")
def digits():
    with np.load(FIXTURES / "digits.npz") as data:
        return dict(data)


def run_model(model, x):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def as_given(kind):
    return {
        "path": lambda: MODEL,
        "text": lambda: str(MODEL),
        "proto": lambda: onnx.load(MODEL),
        "ir": lambda: ir.load(MODEL),
    }[kind]()


def state(model):
    """Return what must not change: the bytes of the file or of the model in memory."""
    if isinstance(model, (str, Path)):
        return hashlib.sha256(Path(model).read_bytes()).hexdigest()
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


@pytest.mark.parametrize("kind", ["path", "text", "proto", "ir"])
def test_each_kind_of_model_is_accepted_and_left_as_it_was(kind, digits):
    model = as_given(kind)
    before = state(model)
    result = onnxcompress.compress(model, method="lc-quant", bits=2)
    assert state(model) == before
    assert isinstance(result.model, onnx.ModelProto)
    assert result.path is None
    onnx.checker.check_model(result.model, full_check=True)
    expected = onnxcompress.compress(MODEL, method="lc-quant", bits=2).model
    assert np.array_equal(run_model(result.model, digits["x_test"]), run_model(expected, digits["x_test"]))
    assert (run_model(result.model, digits["x_test"]).argmax(1) == digits["y_test"]).mean() > 0.8


@pytest.mark.parametrize("kind", ["path", "proto", "ir"])
def test_training_leaves_it_as_it_was_too(kind):
    model = as_given(kind)
    before = state(model)
    onnxcompress.compress(model, method="lc-quant", bits=1, data=FIXTURES / "digits.npz", **TRAINING)
    assert state(model) == before


def test_an_output_is_written_and_not_returned(tmp_path):
    result = onnxcompress.compress(MODEL, method="lc-quant", bits=2, output=str(tmp_path / "out.onnx"))
    assert result.model is None
    assert result.path == tmp_path / "out.onnx"
    assert result.run.models[1].size_bytes == result.path.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


def test_no_output_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnxcompress.compress(onnx.load(MODEL), method="lc-quant", bits=2)
    assert list(tmp_path.iterdir()) == []


def test_data_in_memory(digits):
    x, y = digits["x_train"], digits["y_train"]
    feeds = [{"image": x[i : i + 1], "labels": y[i : i + 1]} for i in range(100)]
    result = onnxcompress.compress(MODEL, method="lc-quant", bits=2, data=feeds, **TRAINING)
    assert result.run.methods[0].training is not None
    assert Run.from_json(result.run.to_json()).recipe["data"]["path"] == "list in memory"
    read = onnxcompress.compress(MODEL, method="lc-quant", bits=2, data=iter(feeds), **TRAINING)
    assert read.run.methods[0].training is not None
    assert "memory" in Run.from_json(read.run.to_json()).recipe["data"]["path"]


def test_the_run_says_how_it_was_made():
    options = {"labels": "none", "val": 0.2, "limit": 100}
    data = FIXTURES / "digits.npz"
    result = onnxcompress.compress(
        MODEL, method=["lc-quant"], bits=2, data=data, data_options=options, seed=5, **TRAINING
    )
    run = Run.from_json(result.run.to_json())
    assert run.command is None
    assert run.seed == 5
    assert run.recipe["data"] == {"path": str(data), **options}
    assert run.accuracy is None
    assert run.benchmark is None


def test_a_gate_that_fails_hands_the_result_on(tmp_path):
    with pytest.raises(GateError, match="max_size_ratio") as error:
        onnxcompress.compress(
            MODEL,
            method="lc-quant",
            bits=2,
            output=tmp_path / "out.onnx",
            limits={"max_size_ratio": 1e-4},
        )
    assert error.value.exit_code == 3
    assert (tmp_path / "out.onnx").exists()
    assert error.value.result.path == tmp_path / "out.onnx"
    with pytest.raises(GateError) as error:
        onnxcompress.compress(MODEL, method="half", limits={"max_size_ratio": 1e-4})
    kept = error.value.result
    assert kept.model is not None, "in memory, where nothing else would be left of it"
    assert [gate.passed for gate in kept.run.gates] == [False]
    onnxcompress.compress(MODEL, method="lc-quant", bits=2, limits={"max_size_ratio": 0.9})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"method": "zip"}, UsageError),
        ({"bits": 9}, UsageError),
        ({"bits": "2"}, UsageError),
        ({"bitz": 2}, UsageError),
        ({"seed": -1}, UsageError),
        ({"limits": {"max_size": 1}}, UsageError),
        ({"limits": {"max_latency_ratio": 1.0}}, UsageError),
        ({"data": "missing.npz"}, DataError),
        ({"data": 3}, DataError),
        ({"data_options": {"labels": "y"}}, UsageError),
        ({"data_options": {"colour": "rgb"}}, UsageError),
        ({"input_shapes": {"nothing": (1,)}}, UsageError),
        ({"threads": 0}, UsageError),
        ({"threads": 100_000}, UsageError),
        ({"output": MODEL}, OutputError),
        ({"output": "missing/out.onnx"}, OutputError),
        ({"model": "missing.onnx"}, UsageError),
        ({"model": 3}, OnnxCompressError),
        ({"model": onnx.ModelProto()}, ModelImportError),
        ({"exclude": ["*"]}, NothingChangedError),
    ],
)
def test_what_is_wrong_is_one_of_our_errors(given, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"model": MODEL, "method": "lc-quant", **given}
    with pytest.raises(error) as raised:
        onnxcompress.compress(**arguments)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_budgets_and_baselines_as_on_the_command_line(tmp_path):
    (tmp_path / "budgets.toml").write_text('[models."small.onnx"]\nmax_size_ratio = 1e-4\n')
    with pytest.raises(UsageError, match="say nothing of this model"):
        onnxcompress.compress(MODEL, method="half", budgets=tmp_path / "budgets.toml")
    with pytest.raises(GateError, match="max_size_ratio"):
        onnxcompress.compress(
            MODEL, method="half", output=tmp_path / "small.onnx", budgets=str(tmp_path / "budgets.toml")
        )
    before = onnxcompress.compress(MODEL, method="lc-quant", bits=2)
    with pytest.raises(GateError, match="baseline_bytes"):
        onnxcompress.compress(MODEL, method="half", baseline=before.run)
    again = onnxcompress.compress(MODEL, method="half", baseline=before.run, max_regression=9.0)
    assert {g.name for g in again.run.gates} >= {"baseline_bytes", "baseline_rel_err"}
    with pytest.raises(UsageError, match="0 or more"):
        onnxcompress.compress(MODEL, method="half", baseline=before.run, max_regression=-1.0)


@pytest.mark.parametrize(
    ("given", "says"), [({"strict": True}, "no gate is given"), ({"max_regression": 0.02}, "--baseline")]
)
def test_what_applies_to_gates_is_refused_without_them(given, says):
    with pytest.raises(UsageError, match=says):
        onnxcompress.compress(MODEL, method="half", **given)
    with pytest.raises(UsageError, match=says):
        onnxcompress.compare(MODEL, MODEL, benchmark=False, **given)


def test_compare(tmp_path):
    onnxcompress.compress(MODEL, method="half", output=tmp_path / "half.onnx")
    run = onnxcompress.compare(MODEL, tmp_path / "half.onnx", benchmark=False, limits={"max_size_ratio": 0.9})
    assert run.kind == "compare"
    assert run.models[1].size_bytes < run.models[0].size_bytes
    assert [g.passed for g in run.gates] == [True]
    (tmp_path / "budgets.toml").write_text('[models."half*"]\nmax_bytes = 10\n')
    with pytest.raises(GateError, match="max_bytes"):
        onnxcompress.compare(
            MODEL, tmp_path / "half.onnx", benchmark=False, budgets=tmp_path / "budgets.toml"
        )
    with pytest.raises(GateError, match="baseline"):
        onnxcompress.compare(MODEL, MODEL, benchmark=False, baseline=run)
    with pytest.raises(UsageError, match="nothing to compare"):
        onnxcompress.compare(MODEL)
    with pytest.raises(UsageError, match="none is given"):
        onnxcompress.compare(MODEL, MODEL, benchmark=False, data_options={"labels": "y"})


def test_labels_that_the_original_does_not_know_are_told(tmp_path):
    """Classes in another order make any model look useless: nothing measured by them means anything."""
    with np.load(FIXTURES / "digits.npz") as data:
        held = {key: data[key] for key in data.files}
    held |= {key: (values + 1) % 10 for key, values in held.items() if key.startswith("y_")}
    np.savez(tmp_path / "shifted.npz", **held)
    for path, told in ((tmp_path / "shifted.npz", True), (FIXTURES / "digits.npz", False)):
        run = onnxcompress.compress(MODEL, method="lc-quant", bits=4, mode="dc", data=path).run
        assert any("one answer to all of them" in warning for warning in run.warnings) == told
