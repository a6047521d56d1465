"""Random inputs for every real model, without any option."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxcompress import importer
from onnxcompress.engine import runtime
from onnxcompress.engine.feeds import random_feeds, resolve_shapes

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
real = sorted(p for p in MODELS.glob("*.onnx") if p.stem != "pcb_aoi")

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not real, reason="the folder ../shared with real models is missing"),
]


@pytest.mark.parametrize("path", real or [MODELS], ids=lambda p: p.stem)
def test_inputs_run_and_outputs_depend_on_them(path):
    model, session = importer.load(path), runtime.open_session(path)
    shapes = resolve_shapes(model, session, {})
    feeds = random_feeds(session.inputs, seed=1, shapes=shapes, examples=2, model=model)
    first, second = (session.run(feed) for feed in feeds)
    arrays = {n: a for n, a in first.items() if isinstance(a, np.ndarray)}
    assert all(np.isfinite(np.asarray(a, np.float64)).all() for a in arrays.values())
    assert any(a.size and not np.array_equal(a, second[n]) for n, a in arrays.items())


@pytest.mark.skipif(not (MODELS / "silero_vad_v62.onnx").is_file(), reason="model missing")
def test_silero_gets_a_sample_rate_it_knows():
    path = MODELS / "silero_vad_v62.onnx"
    model, session = importer.load(path), runtime.open_session(path)
    shapes = resolve_shapes(model, session, {})
    (feed,) = random_feeds(session.inputs, seed=1, shapes=shapes, model=model)
    assert feed["sr"] in (8000, 16000)
    assert feed["state"].shape == (2, feed["input"].shape[0], 128)


@pytest.mark.skipif(not (MODELS / "magika_v3_3.onnx").is_file(), reason="model missing")
def test_magika_gets_bytes():
    path = MODELS / "magika_v3_3.onnx"
    model, session = importer.load(path), runtime.open_session(path)
    (feed,) = random_feeds(session.inputs, seed=1, shapes=resolve_shapes(model, session), model=model)
    assert feed["bytes"].max() > 200
    assert feed["bytes"].min() >= 0
