"""Data that fits the inputs and that the model still does not take: it is the data that is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import proto_of

from onnxcompress import pipeline
from onnxcompress.core.errors import DataError, ExecutionError
from onnxcompress.methods.lc_quant import LcQuant
from onnxcompress.pipeline import compression
from onnxcompress.recipe import Recipe


@pytest.fixture
def embedding(tmp_path):
    proto = proto_of(
        "e = Gather (table, x) f = Flatten (e) y = MatMul (f, w)",
        "int64[N, 3] x", "float[N, 4] y", {"table": (10, 50), "w": (150, 4)},
    )  # fmt: skip
    onnx.save(proto, tmp_path / "net.onnx")
    return tmp_path


def compress(folder, tokens):
    np.savez(folder / "data.npz", x=tokens)
    method = LcQuant(bits=2, steps=2, epochs=1.0, lr=0.01)
    recipe = Recipe((method,), {"path": folder / "data.npz"}, 0)
    return pipeline.compress(
        pipeline.Request(source=folder / "net.onnx", recipe=recipe, output=None, benchmark=False)
    )


def test_an_index_out_of_the_table_is_an_example_of_the_data(embedding):
    tokens = np.arange(120).reshape(40, 3) % 10
    assert compress(embedding, tokens).weights
    tokens[29, 1] = 52
    with pytest.raises(DataError, match=r"does not run on the data \(.*data.npz.*, example 29\): .*52"):
        compress(embedding, tokens)


def test_what_the_original_runs_is_no_fault_of_the_data(embedding, monkeypatch):
    def fails(*_):
        raise ExecutionError("no way to execute operator 'Gather'")

    monkeypatch.setattr(compression, "_run_methods", fails)
    with pytest.raises(ExecutionError, match="no way to execute"):
        compress(embedding, np.arange(120).reshape(40, 3) % 10)


def test_a_scalar_beside_batches_says_how_examples_look(tmp_path):
    proto = proto_of(
        "s = Mul (x, t) y = MatMul (s, w)", "float[N, 50] x, float t", "float[N, 40] y", {"w": (50, 40)}
    )
    onnx.save(proto, tmp_path / "net.onnx")
    rows = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    recipe = Recipe((LcQuant(bits=2, steps=2, epochs=1.0, lr=0.01),), {"path": tmp_path / "data.npz"}, 0)
    request = pipeline.Request(source=tmp_path / "net.onnx", recipe=recipe, output=None, benchmark=False)
    for wrong in ({"x": rows, "t": np.float32(2).reshape(1)}, {"x": rows, "t": np.ones(20, np.float32)}):
        np.savez(tmp_path / "data.npz", **wrong)
        with pytest.raises(DataError, match="an axis of length N in front"):
            pipeline.compress(request)
    np.savez(tmp_path / "data.npz", x=rows[:, None], t=np.ones(20, np.float32))
    assert pipeline.compress(request).weights


@pytest.mark.parametrize("labels", [True, False])
def test_an_example_that_cannot_be_read_is_told_before_any_training(tmp_path, monkeypatch, labels):
    proto = proto_of("y = MatMul (x, w)", "float[N, 6] x", "float[N, 64] y", {"w": (6, 64)})
    onnx.save(proto, tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    data = {"x_train": rng.normal(size=(60, 6)), "x_test": rng.normal(size=(40, 6))}
    if labels:
        data |= {"y_train": rng.integers(0, 64, 60), "y_test": rng.integers(0, 64, 40)}
    data["x_test"][33, 2] = np.nan
    np.savez(
        tmp_path / "data.npz", **{k: v.astype(np.float32 if k[0] == "x" else int) for k, v in data.items()}
    )

    def trained(*_, **__):
        raise AssertionError("training has begun")

    monkeypatch.setattr(compression, "_run_methods", trained)
    method = LcQuant(bits=2, steps=2, epochs=1.0, lr=0.01)
    request = pipeline.Request(
        source=tmp_path / "net.onnx", recipe=Recipe((method,), {"path": tmp_path / "data.npz"}, 0)
    )
    with pytest.raises(DataError, match=r"NaN or infinity .*test split, input 'x', example 33"):
        pipeline.compress(request)
