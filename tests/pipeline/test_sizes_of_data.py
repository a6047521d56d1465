"""Where the file leaves sizes open, costs are counted and cuts decided at those of the data."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from text_graphs import proto_of

from onnxcompress import pipeline
from onnxcompress.core.errors import DataError, ModelImportError, UnsupportedError
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


LENGTH = 77


@pytest.fixture
def one_length(tmp_path):
    """A network that runs at one length only, though the file leaves it open."""
    proto = proto_of(
        "h = MatMul (x, a) r = Relu (h) f = Reshape (r, whole) y = MatMul (f, b)",
        "float[N, T, 6] x", "float[N, 3] y",
        {"a": (6, 16), "b": (16 * LENGTH, 3), "whole": np.array([0, 16 * LENGTH])},
    )  # fmt: skip
    onnx.save(proto, tmp_path / "sequence.onnx")
    return tmp_path / "sequence.onnx"


def saved(folder, length=LENGTH, first=0.0, count=20):
    rows = np.random.default_rng(0).normal(size=(count, length, 6)).astype(np.float32)
    rows[0, 0, 0] += first
    np.savez(folder / "data.npz", x=rows)
    return folder / "data.npz"


def yielded(length):
    """Examples that can be read only once."""
    rng = np.random.default_rng(0)
    return ({"x": rng.normal(size=(length, 6)).astype(np.float32)} for _ in range(20))


def compared(source, data):
    return (
        pipeline.compare([source, source], data={"path": data}, benchmark=False).models[0].input_shapes["x"]
    )


def ranked(source, data):
    recipe = Recipe((Magnitude(keep=0.5),), {"path": data}, 0)
    return stage.sensitivity(source, recipe).run.models[0].input_shapes["x"]


COMMANDS = [lambda *of: shapes(*of)[0], compared, ranked]


@pytest.mark.parametrize("command", COMMANDS)
def test_data_tells_the_only_sizes_that_run(one_length, tmp_path, command):
    assert command(one_length, saved(tmp_path)) == (1, LENGTH, 6)
    assert command(one_length, yielded(LENGTH)) == (1, LENGTH, 6)


def test_without_data_the_only_sizes_are_asked_for(one_length):
    with pytest.raises(UnsupportedError, match=r"found no inputs .* give their shapes with --input-shape"):
        shapes(one_length, None)


@pytest.mark.parametrize("command", COMMANDS)
def test_sizes_of_the_data_that_do_not_run_are_told_of(one_length, tmp_path, command):
    with pytest.raises(UnsupportedError, match=r"found no inputs .*at the sizes of the data, it says: .*78"):
        command(one_length, saved(tmp_path, LENGTH + 1))


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_data_is_told_of_once_the_model_runs(one_length, files, tmp_path, command):
    with pytest.raises(DataError, match=r"NaN or infinity .*example 0"):
        command(one_length, saved(tmp_path, first=np.nan))
    missing = tmp_path / "none.npz"
    with pytest.raises(DataError, match="the data is not there"):
        command(files[0], missing)
    with pytest.raises(UnsupportedError, match=r"found no inputs .*or with data that fits: .*not there"):
        command(one_length, missing)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_that_does_not_run_is_told_of_before_its_data(tmp_path, command):
    body = "h = MatMul (x, a) f = Reshape (h, one) g = Reshape (h, other) y = Concat <axis = 1> (f, g)"
    weights = {"a": (6, 16), "one": np.array([0, 160]), "other": np.array([0, 176])}
    onnx.save(proto_of(body, "float[N, T, 6] x", "float[N, M] y", weights), tmp_path / "net.onnx")
    for data in (tmp_path / "none.npz", saved(tmp_path, 10)):
        with pytest.raises(UnsupportedError, match="found no inputs"):
            command(tmp_path / "net.onnx", data)
    (tmp_path / "net.onnx").write_bytes(b"no model")
    with pytest.raises(ModelImportError):
        command(tmp_path / "net.onnx", tmp_path / "none.npz")
