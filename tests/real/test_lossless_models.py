"""Simplification, half precision and packing on real models: outputs, sizes, nothing lost on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

import onnxcompress
from onnxcompress import importer
from onnxcompress.core.errors import NothingChangedError
from onnxcompress.engine.channels import analyse

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"

pytestmark = pytest.mark.real


def path(name):
    found = MODELS / f"{name}.onnx"
    if not found.exists():
        pytest.skip(f"{found.name} is not there")
    return found


@pytest.mark.parametrize(
    ("name", "options", "rules", "most_bytes"),
    [
        # bytes: what another simplifier (onnxsim 0.8.1) makes of the same model
        ("ppocr_cls_v2", {}, {"normalisation": 35, "Constant nodes": 289}, 550_307),
        ("gtcrn_simple", {}, {"normalisation": 11}, 533_680),
        ("lenet300_lc_reference", {}, {"scales and shifts": 1}, 1_071_293),
        ("silero_vad_v62", {"bitwise": True}, {"passing on": 30, "duplicates": 160}, 2_326_167),  # If in If
        ("basic_pitch", {"bitwise": True}, {"passing on": 36}, 232_039),
        ("yunet_120x160", {}, {"duplicates": 3}, 346_674),
        ("ultraface_rfb320_nopost", {"freeze_inputs": True}, {"normalisation": 35}, 1_114_157),
        ("mnist_cntk", {"freeze_inputs": True}, {"scales and shifts": 2}, 26_896),
    ],
)
def test_simplified_models_compute_the_same(name, options, rules, most_bytes):
    run = onnxcompress.compress(path(name), method="lossless", **options).run
    found = {c.rule: c.count for f in run.simplifications for c in f.changes}
    assert rules.items() <= found.items()
    assert run.models[1].size_bytes < min(run.models[0].size_bytes, most_bytes)
    outputs = run.comparisons[0].outputs
    assert all(o.equal if options.get("bitwise") else (o.relative_l2 or 0) < 1e-5 for o in outputs)


def test_what_nothing_can_be_taken_from_is_told():
    with pytest.raises(NothingChangedError):
        onnxcompress.compress(path("speech_recog"), method="lossless")
    with pytest.raises(NothingChangedError, match="--freeze-inputs"):
        onnxcompress.compress(path("mnist_cntk"), method="lossless")


@pytest.mark.parametrize("name", ["fastestdet", "ppocr_cls_v2"])
def test_channels_stay_apart_though_equal_constants_are_joined(name):
    """What a simplified file may be cut by is what the original may be."""
    simple = onnxcompress.compress(path(name), method="lossless")
    shapes = simple.run.models[0].input_shapes
    before, after = (analyse(importer.load(m), shapes) for m in (path(name), simple.model))
    assert sorted(g.size for g in after.free) == sorted(g.size for g in before.free)


@pytest.mark.parametrize(("name", "error"), [("cifar_cnn_tutorial", 2e-3), ("silero_vad_v62", 5e-3)])
def test_half_precision(name, error):
    run = onnxcompress.compress(path(name), method="half").run
    assert run.models[1].size_bytes < 0.6 * run.models[0].size_bytes
    assert max(o.relative_l2 for o in run.comparisons[0].outputs) < error


@pytest.mark.parametrize("name", ["yunet_120x160", "squeezenet_fp16", "mnist_quantized"])
def test_packed_and_unpacked(name, tmp_path):
    packed = onnxcompress.pack(path(name), tmp_path / "p.zst", level=9)
    assert packed.packed_bytes < 1.02 * packed.gzip_bytes
    onnxcompress.unpack(packed.path, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == path(name).read_bytes()
