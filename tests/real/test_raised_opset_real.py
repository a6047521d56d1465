"""Real models of old operator sets: pruned weights are packed with a later one, and nothing else changes."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxcompress import exporter, importer
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.engine import feeds, opset, runtime

MODELS = Path(__file__).parents[3] / "shared" / "models"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the folder ../shared/models is missing"),
]


def pruned(name: str):
    model = importer.load(MODELS / f"{name}.onnx")
    large = [n for n, w in model.weights.items() if len(w.shape) >= 2 and w.size >= 256]
    return model.with_encodings({n: Pruning(0.1).project([model.array(n)])[0] for n in large}, "test")


@pytest.mark.parametrize(
    ("name", "smaller"),
    [("cifar_cnn_tutorial", 6), ("mnist_cntk", 3.5), ("yunet_120x160", 4), ("ultraface_rfb320", 3)],
)
def test_pruned_weights_are_packed(name: str, smaller: float, tmp_path: Path) -> None:
    model = pruned(name)
    done = exporter.export(model, tmp_path / "out.onnx")
    written = onnx.load(done.path)
    assert model.opset < 11 <= opset.version(written)
    assert done.size_bytes * smaller < model.source.size_bytes
    old, new = (runtime.open_session(m) for m in (exporter.dense_bytes(model), done.path))
    assert [i.name for i in new.inputs] == [i.name for i in old.inputs]
    shapes = feeds.resolve_shapes(model, old, {})
    single = feeds.random_feeds(old.inputs, seed=5, shapes=shapes, model=model)[0]
    expected, found = old.run(single), new.run(single)
    for output, value in expected.items():
        np.testing.assert_allclose(found[output], value, rtol=1e-4, atol=1e-5)


def test_what_the_converter_does_not_know_keeps_its_operator_set(tmp_path: Path) -> None:
    model = pruned("fns_candy")
    done = exporter.export(model, tmp_path / "out.onnx")
    assert opset.version(onnx.load(done.path)) == model.opset
    assert any("stored whole, which saves nothing" in warning for warning in done.warnings)
