"""Where the file leaves sizes open, costs are counted and cuts decided at those of the data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import proto_of

from onnxcompress import pipeline
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.pipeline import sensitivity as stage
from onnxcompress.recipe import Recipe


@pytest.fixture
def files(tmp_path):
    """A convolution and, over the pixels of its map, a product of each with each."""
    proto = proto_of(
        "c = Conv <pads = [1, 1, 1, 1]> (x, a) r = Relu (c) f = Reshape (r, flat) "
        "t = Transpose <perm = [0, 2, 1]> (f) s = MatMul (t, f) m = ReduceMean <axes = [1, 2]> (s) "
        "g = GlobalAveragePool (r) h = Flatten (g) y = Gemm (h, b)",
        "float[N, 3, H, W] x", "float[N, 5] y, float[N, 1, 1] m",
        {"a": (16, 3, 3, 3), "b": (16, 5), "flat": np.array([0, 16, -1])},
    )  # fmt: skip
    onnx.save(proto, tmp_path / "net.onnx")
    pictures = np.random.default_rng(0).normal(size=(20, 3, 12, 10)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=pictures)
    return tmp_path / "net.onnx", tmp_path / "data.npz"


def shapes(source, data, **more):
    recipe = Recipe((Magnitude(keep=0.5),), {} if data is None else {"path": data}, 0)
    request = pipeline.Request(source=source, recipe=recipe, output=None, benchmark=False, **more)
    run = pipeline.compress(request)
    assert run.cuts
    return [facts.input_shapes["x"] for facts in run.models]


def test_sizes_of_the_data_are_used_and_those_of_the_user_win(files):
    model, data = files
    assert shapes(model, data) == [(1, 3, 12, 10)] * 2
    assert shapes(model, data, input_shapes={"x": (2, 3, 20, 20)}) == [(2, 3, 20, 20)] * 2


def test_without_data_pictures_are_no_larger_than_what_fits(files):
    # 224 x 224 pixels with each other would be 10 GB.
    model, _ = files
    assert shapes(model, None) == [(1, 3, 64, 64)] * 2


def test_all_commands_count_at_the_same_sizes(files):
    model, data = files
    run = pipeline.compare([model], data={"path": data}, outputs=True, benchmark=False)
    assert run.models[0].input_shapes["x"] == (1, 3, 12, 10)
    recipe = Recipe((Magnitude(keep=0.5),), {"path": data}, 0)
    assert stage.sensitivity(model, recipe).run.models[0].input_shapes["x"] == (1, 3, 12, 10)
