"""The fixtures are what their README says: small, loadable, and the trained ones accurate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxcompress import importer
from onnxcompress.engine import runtime

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def accuracy(model, data, key):
    with np.load(FIXTURES / data) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    session = runtime.open_session(FIXTURES / model)
    scores = session.run({key: x.astype(session.inputs[0].numpy)})["scores"]
    return float((scores.argmax(1) == y).mean())


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "digits_lstm"])
def test_digit_models_are_trained(name):
    assert accuracy(f"{name}.onnx", "digits.npz", "image") >= 0.96


def test_the_bag_of_words_is_trained():
    assert accuracy("embedding.onnx", "words.npz", "words") >= 0.9


def test_packing_can_pay():
    for name in ("digits_mlp.onnx", "digits_cnn.onnx"):
        assert (FIXTURES / name).stat().st_size > 100_000


def test_all_load_and_are_small():
    names = sorted(FIXTURES.glob("*.onnx"))
    assert len(names) >= 10
    assert all(importer.load(name).weights for name in names)
    assert sum(p.stat().st_size for p in FIXTURES.iterdir() if p.is_file()) < 1_500_000


def test_other_forms_of_the_mlp_compute_the_same():
    x = np.random.default_rng(0).random((5, 1, 8, 8)).astype(np.float32)
    want = runtime.open_session(FIXTURES / "constants.onnx").run({"image": x})["scores"]
    for name in ("digits_function", "ir3", "external"):
        assert np.allclose(
            runtime.open_session(FIXTURES / f"{name}.onnx").run({"image": x})["scores"], want, atol=1e-5
        )
    plain = {"image": x, "plain": np.array(True)}
    assert np.allclose(runtime.open_session(FIXTURES / "if.onnx").run(plain)["result"], want, atol=1e-5)
    half = runtime.open_session(FIXTURES / "fp16.onnx").run({"image": x.astype(np.float16)})["scores"]
    assert np.allclose(half.astype(np.float32), want, atol=0.05)
