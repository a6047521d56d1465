"""Every real model gets a total; some have closed forms."""

import functools
from pathlib import Path

import pytest

from onnxcompress import importer
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.measures import facts
from onnxcompress.engine.measures.costs import Macs, count_macs

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
FILES = sorted(p for p in MODELS.glob("*.onnx") if p.stem != "pcb_aoi")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILES, reason="the folder ../shared with real models is missing"),
]

CLOSED_FORMS = {
    "lenet300_lc_reference": 784 * 300 + 300 * 100 + 100 * 10,
    "super_resolution": 224**2 * (64 * 25 + 64 * 64 * 9 + 32 * 64 * 9 + 9 * 32 * 9),
    "mnist_cntk": 28**2 * 8 * 25 + 14**2 * 16 * 8 * 25 + 256 * 10,
    # 512 samples at 16 kHz: 3 columns of the transform, the encoder at 3, 2, 1, 1, and one step of the LSTM.
    "silero_vad_v62": 3 * 258 * 256
    + 3 * 128 * 129 * 3
    + 2 * 64 * 128 * 3
    + 1 * 64 * 64 * 3
    + 1 * 128 * 64 * 3
    + 4 * 128 * (128 + 128)
    + 128,
}


@functools.cache
def counted(path: Path) -> Macs:
    model = importer.load(path)
    shapes = feeds.resolve_shapes(model, runtime.open_session(path), {})
    return count_macs(model, shapes)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_every_model_gets_a_total(path: Path) -> None:
    found = counted(path)
    assert found.unknown_ops == ()
    assert found.total == sum(found.by_node.values())
    assert found.total > 0


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name: str) -> None:
    assert counted(MODELS / f"{name}.onnx").total == CLOSED_FORMS[name]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_weights_of_an_original_take_what_their_type_takes(path: Path) -> None:
    found = facts.model_facts(path, importer.load(path))
    # 3,400 weights of mnist_quantized are bytes, 2,600 are single precision.
    special = {"squeezenet_fp16": 16, "mnist_quantized": (3400 * 8 + 2600 * 32) / 6000}
    expected = special.get(path.stem, 32)
    assert found.bits_per_weight == expected
    assert found.size_bytes == path.stat().st_size
    assert 0 < found.gzip_bytes < found.size_bytes
