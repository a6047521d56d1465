"""Real models with codebooks: exported, proven, recognised, and close to the information bound."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxcompress import exporter, importer
from onnxcompress.core.model import Model, Source
from onnxcompress.encodings._base import Projection
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.scaled import IntGrid
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.storage import stored

MODELS = Path(__file__).parents[3] / "shared" / "models"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the folder ../shared/models is missing"),
]
QUICK = {
    "lenet300_lc_reference": 2,
    "squeezenet_fp16": 4,
    "mnist_cntk": 4,
    "silero_vad_v62": 16,
    "ppocr_cls_v2": 4,
    "dtln_1": 2,
    "speech_recog": 4,
    "magika_v3_3": 2,
    "fastestdet": 2,
    "yolox_nano": 2,
    "fns_candy": 5,
}


def compress(name: str, projection: Projection) -> Model:
    model = importer.load(MODELS / f"{name}.onnx")
    large = [n for n, w in model.weights.items() if len(w.shape) >= 2 and w.size >= 256]
    return model.with_encodings({n: projection.project([model.array(n)])[0] for n in large}, "test")


@pytest.mark.parametrize("name", QUICK)
def test_exported_recognised_and_close_to_the_bound(name: str, tmp_path: Path) -> None:
    model = compress(name, AdaptiveCodebook(QUICK[name]))
    result = exporter.export(model, tmp_path / "out.onnx")
    assert result.size_bytes < model.source.size_bytes
    if name != "mnist_cntk":  # 27 kB
        assert result.size_bytes <= 1.05 * exporter.information_bound_bytes(model)
    graph, encodings = stored.lift(from_proto(onnx.load(result.path)))
    assert encodings.keys() == model.encodings.keys() - {r.where for r in result.refusals}
    assert all(np.array_equal(e.decode(), model.encodings[n].decode()) for n, e in encodings.items())
    exporter.export(Model(graph, Source(None, "", 0), encodings), tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == result.path.read_bytes()


@pytest.mark.parametrize("name", ["squeezenet_fp16", "fns_candy", "dtln_1"])
def test_per_channel_scales(name: str, tmp_path: Path) -> None:
    model = compress(name, IntGrid(entries=16, granularity="channel", axis=1))
    exporter.export(model, tmp_path / "out.onnx")
