"""Models that draw random numbers while they run: refused where that moves an output, and only there."""

import numpy as np
import pytest
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.pipeline import sensitivity as stage
from onnxcompress.recipe import build


def perceptron(middle, **constants):
    """Return x (N 40) → 64 → ``middle``, which makes m of r → 10."""
    body = f"h = MatMul (x, w0) r = Relu (h) {middle} y = MatMul (m, w1)"
    return proto_of(body, "float[N, 40] x", "float[N, 10] y", {"w0": (40, 64), "w1": (64, 10), **constants})


def dropout(training, seed=""):
    constants = {"ratio": np.array(0.3, np.float32), "training": np.array(training)}
    return perceptron(f"m = Dropout {seed} (r, ratio, training)", **constants)


def noise(scale):
    middle = "z = RandomNormalLike (r) s = Mul (z, scale) m = Add (r, s)"
    return perceptron(middle, scale=np.array(scale, np.float32))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (dropout(True), r"output 'y' hangs on what 'm' \(Dropout\) draws"),
        (dropout(True, "<seed = 5>"), r"'m' \(Dropout\)"),
        (noise(1.0), r"'z' \(RandomNormalLike\)"),
    ],
    ids=["dropout", "seeded dropout", "noise"],
)
def test_a_model_whose_outputs_are_drawn_is_refused(tmp_path, model, words):
    with pytest.raises(UnsupportedError, match=words) as caught:
        onnxcompress.compress(model, output=tmp_path / "out.onnx", method="lc-quant", bits=4, mode="dc")
    assert "each time it runs" in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnsupportedError, match="each time it runs"):
        stage.sensitivity(model, build(["lc-quant"], {}))


@pytest.mark.parametrize("model", [dropout(False), noise(0.0)], ids=["inference", "times zero"])
def test_what_only_might_draw_is_compressed(model):
    found = onnxcompress.compress(model, method="lc-quant", bits=4, mode="dc", include=("w0",))
    assert {w.name: w.encoding for w in found.run.weights}["w0"] == "codebook"
