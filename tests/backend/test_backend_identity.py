"""Import, then export, changes nothing: on every ONNX backend test model that onnxruntime runs."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx.backend.test.case.node import collect_testcases
from sameness import differences

from onnxcompress import importer
from onnxcompress.core.errors import OnnxCompressError, UnsupportedError
from onnxcompress.engine import proto, runtime

BUNDLED = Path(onnx.backend.test.__file__).parent / "data"


@pytest.fixture(scope="module")
def node_cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(collect_testcases(None))
    assert len(found) > 1800
    return found


def loadable(model):
    try:
        return runtime.open_session(model)
    except UnsupportedError:
        return None


def outputs(session, inputs):
    feeds = {i.name: a for i, a in zip(session.inputs, inputs, strict=False)}
    try:
        return list(session.run(feeds).values())
    except OnnxCompressError as error:
        return error.why


def bits(value):
    if isinstance(value, (list, tuple)):
        return [bits(v) for v in value]
    if isinstance(value, dict):
        return {k: bits(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, value.tolist() if value.dtype == np.object_ else value.tobytes()
    return value


def problems(case):
    """Return None where onnxruntime does not load the test's model, else what import and export changed."""
    data = case.model.SerializeToString()
    session = loadable(data)
    if session is None:
        return None
    back = proto.to_proto(importer.load(case.model).ir)
    found = list(differences(onnx.ModelProto.FromString(data), back))
    if not found and "random" not in case.name and "bernoulli" not in case.name:
        again = runtime.open_session(back.SerializeToString())
        inputs = case.data_sets[0][0]
        if bits(outputs(session, inputs)) != bits(outputs(again, inputs)):
            found.append("outputs differ")
    return [f"{case.name}: {f}" for f in found]


def check(cases, at_least):
    results = [problems(case) for case in cases]
    ran = [r for r in results if r is not None]
    assert not [text for r in ran for text in r]
    assert len(ran) >= at_least


def test_every_tenth_node_model(node_cases):
    check(node_cases[::10], 100)


@pytest.mark.slow
def test_every_node_model(node_cases):
    check(node_cases, 1300)


def test_graphs_survive_even_where_onnxruntime_does_not_load_them(node_cases):
    for case in node_cases:
        before = case.model.SerializeToString()
        graph = proto.from_proto(onnx.ModelProto.FromString(before)).clone()
        assert not list(differences(onnx.ModelProto.FromString(before), proto.to_proto(graph))), case.name


@pytest.mark.parametrize(
    "folder",
    ["simple", "pytorch-converted", "pytorch-operator", pytest.param("light", marks=pytest.mark.slow)],
)
def test_bundled_models(folder):
    ran = 0
    for path in sorted((BUNDLED / folder).rglob("*.onnx")):
        if loadable(path) is None:
            continue
        ran += 1
        back = proto.to_proto(importer.load(path).ir)
        assert not list(differences(onnx.load(path), back)), path.name
    assert ran >= 7
