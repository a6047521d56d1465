"""Import, then export, changes nothing: on every real model and on every fixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from sameness import differences

from onnxcompress import exporter, importer
from onnxcompress.core.errors import ModelImportError
from onnxcompress.core.model import FLOAT_TYPES
from onnxcompress.engine import feeds, proto, runtime

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT.parent / "shared" / "models"
REFUSED = {"pcb_aoi"}  # needs an operator that onnxruntime does not have
real = sorted(p for p in MODELS.glob("*.onnx") if p.stem not in REFUSED)
fixtures = sorted((ROOT / "fixtures").glob("*.onnx"))

needs_models = pytest.mark.skipif(not real, reason="the folder ../shared with real models is missing")
cases = [*fixtures, *(pytest.param(p, marks=pytest.mark.real) for p in real)]
if not real:
    cases.append(pytest.param(MODELS, marks=[pytest.mark.real, needs_models]))


def same(a, b):
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype == np.object_:
        return a.shape == b.shape and bool((a == b).all())
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("path", cases, ids=lambda p: p.stem)
def test_the_file_comes_out_as_it_went_in(path, tmp_path):
    model = importer.load(path)
    written = exporter.export(model, tmp_path / "out.onnx").path
    assert not list(differences(onnx.load(path), onnx.load(written)))

    before, after = runtime.open_session(path), runtime.open_session(written)
    shapes = feeds.resolve_shapes(model, before, {})
    (feed,) = feeds.random_feeds(before.inputs, seed=5, shapes=shapes, model=model)
    want, got = before.run(feed), after.run(feed)
    assert all(same(want[name], got[name]) for name in want)


@pytest.mark.parametrize("path", cases, ids=lambda p: p.stem)
def test_a_clone_comes_out_as_it_went_in(path):
    graph = importer.load(path).ir.clone()
    original = onnx.load(path, load_external_data=False)
    assert not list(differences(original, proto.to_proto(graph)))


@pytest.mark.parametrize("path", cases, ids=lambda p: p.stem)
def test_every_weight_is_found(path):
    """Counted on the proto: floating-point initializers and Constants, nested graphs included."""
    model = importer.load(path)
    assert len(model.weights) == count(onnx.load(path, load_external_data=False).graph)
    for name, weight in model.weights.items():
        assert model.array(name).shape == weight.shape


def count(graph):
    floating = {int(t) for t in FLOAT_TYPES}
    found = sum(t.data_type in floating for t in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += count(attribute.g)
            if node.op_type == "Constant":
                found += attribute.name in {"value_float", "value_floats"}
                found += attribute.name == "value" and attribute.t.data_type in floating
    return found


@pytest.mark.real
@needs_models
def test_a_model_onnxruntime_refuses_is_refused_in_one_sentence():
    with pytest.raises(
        ModelImportError, match=r"onnxruntime refuses it, having no operator com\.microsoft:LegacyPadding"
    ):
        importer.load(MODELS / "pcb_aoi.onnx")
