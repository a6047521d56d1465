"""Data: every adapter gives the same numbers; what does not fit is one clear sentence."""

from __future__ import annotations

import itertools
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from small_models import info

from onnxcompress.core.errors import DataError, UsageError
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.int8.search import calls_of

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 3, 4)).astype(np.float32)
Y = RNG.integers(0, 5, 12)
ONE = [info("x", "N", 3, 4)]
TWO = [info("x", "N", 3, 4), info("mask", "N", 2, dtype="int64")]
SCORES = [info("y", "N", 5)]
EVERY = np.arange(12)


class Reader:
    """onnxruntime's CalibrationDataReader, one feed at a time."""

    def __init__(self, feeds):
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


class OwnSamples:
    def __len__(self):
        return 12

    def inputs(self, indices):
        return {"x": X[indices]}

    def labels(self, indices):
        return Y[indices]


def _npz(folder, compressed=False, **arrays):
    (np.savez_compressed if compressed else np.savez)(folder / "d.npz", **arrays)
    return folder / "d.npz"


def _function(folder, body):
    np.savez(folder / "held.npz", X=X, Y=Y)
    (folder / "mine.py").write_text(
        f"import numpy as np\nheld = np.load({str(folder / 'held.npz')!r})\n"
        f"X, Y = held['X'], held['Y']\n{body}\n"
    )
    return f"{folder / 'mine.py'}:feeds"


def _folder(folder, *files):
    (folder / "many").mkdir()
    for k, file in enumerate(files):
        np.savez(folder / "many" / f"e{k}.npz", **file)
    return folder / "many"


SPECS = {
    "npz": lambda f: _npz(f, x=X, labels=Y),
    "npz, compressed": lambda f: _npz(f, True, x=X, labels=Y),
    "npz, Fortran order, big-endian": lambda f: _npz(f, x=np.asfortranarray(X), y=Y.astype(">i4")),
    "path as text": lambda f: str(_npz(f, x=X, target=Y)),
    "x_train": lambda f: _npz(f, x_train=X, y_train=Y),
    "folder of batches": lambda f: _folder(f, {"x": X[:5], "labels": Y[:5]}, {"x": X[5:], "labels": Y[5:]}),
    "folder of examples": lambda f: _folder(f, *({"x": X[k], "labels": Y[k]} for k in range(12))),
    "function of batches": lambda f: _function(
        f, "def feeds():\n    yield {'x': X[:7], 'labels': Y[:7]}\n    yield {'x': X[7:], 'labels': Y[7:]}"
    ),
    "function of examples and labels": lambda f: _function(
        f, "def feeds():\n    for x, y in zip(X, Y):\n        yield {'x': x}, y"
    ),
    "iterable of dicts": lambda f: [{"x": X[k], "labels": Y[k]} for k in range(12)],
    "generator of pairs": lambda f: (({"x": X[k : k + 4]}, Y[k : k + 4]) for k in (0, 4, 8)),
    "dict of arrays": lambda f: {"x": X, "labels": Y},
    "dict of tensors that want gradients": lambda f: {"x": torch.tensor(X, requires_grad=True), "labels": Y},
    "calibration reader": lambda f: Reader([{"x": X[k : k + 1], "labels": Y[k : k + 1]} for k in range(12)]),
    "samples": lambda f: OwnSamples(),
}


@pytest.mark.parametrize("kind", SPECS)
def test_every_adapter_gives_the_same_numbers(kind, tmp_path):
    examples = open_data(SPECS[kind](tmp_path), ONE, outputs=SCORES)
    assert len(examples) == 12
    for indices in (EVERY, EVERY[::-1], np.array([3, 3, 0, 11, 4, 5])):
        found = examples.inputs(indices)["x"]
        np.testing.assert_array_equal(found, X[indices])
        assert found.dtype == np.float32
        assert found.dtype.isnative
        np.testing.assert_array_equal(examples.labels(indices), Y[indices])


def test_npy_and_folder_of_npy(tmp_path):
    np.save(tmp_path / "d.npy", X)
    (tmp_path / "many").mkdir()
    for k in range(12):
        np.save(tmp_path / "many" / f"{k}.npy", X[k])  # 10 sorts after 9
    for spec in (tmp_path / "d.npy", tmp_path / "many"):
        examples = open_data(spec, ONE)
        np.testing.assert_array_equal(examples.inputs(EVERY)["x"], X)
        assert examples.labels(EVERY) is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    array=hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.uint8, np.bool_]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=5),
        elements=st.integers(0, 1),
    ),
    compressed=st.booleans(),
)
def test_any_array_is_read_back(tmp_path, data, array, compressed):
    indices = np.array(data.draw(st.lists(st.integers(0, len(array) - 1), min_size=1, max_size=9)))
    free = data.draw(st.lists(st.booleans(), min_size=array.ndim - 1, max_size=array.ndim - 1))
    shape = [None if f else d for f, d in zip(free, array.shape[1:], strict=True)]
    spec = _npz(tmp_path, compressed, x=array)
    item = info("x", "N", *shape, dtype=array.dtype.name)
    found = open_data(spec, [item]).inputs(indices)["x"]
    np.testing.assert_array_equal(found, array[indices])
    assert found.dtype == array.dtype


# keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train/x", "train/target", "test/x", "test/target"),
        ("images", "labels", "images_test", "labels_test"),
        ("img.train", "y.train", "img.test", "y.test"),
    ],
)
def test_splits_by_their_keys(names):
    arrays = dict(zip(names, (X[:8], Y[:8], X[8:], Y[8:]), strict=True))
    examples = open_data(arrays, ONE, outputs=SCORES)
    task = make_task(examples, seed=3)
    assert sorted(task.test) == list(range(8, 12))
    assert not set(task.test) & (set(task.train) | set(task.validation))
    assert sorted([*task.train, *task.validation]) == list(range(8))
    np.testing.assert_array_equal(examples.inputs(task.test)["x"], X[task.test])
    np.testing.assert_array_equal(examples.labels(task.test), Y[task.test])


def test_an_explicit_validation_split_is_honoured():
    arrays = {"x_train": X[:6], "y_train": Y[:6], "x_val": X[6:9], "y_val": Y[6:9], "x_test": X[9:]}
    task = make_task(open_data(arrays, ONE, outputs=SCORES))
    assert sorted(task.validation) == [6, 7, 8]
    assert list(task.train) == list(range(6))
    assert task.test is None  # without labels it measures nothing
    own = make_task(open_data(arrays, ONE, outputs=SCORES), val=2)
    assert len(own.validation) == 2
    assert set(own.validation) <= set(range(6))


def test_two_inputs_and_splits():
    mask = RNG.integers(0, 9, (12, 2))
    arrays = {"x_train": X[:8], "mask_train": mask[:8], "x_test": X[8:], "mask_test": mask[8:]}
    examples = open_data(arrays, TWO)
    np.testing.assert_array_equal(examples.inputs(EVERY)["mask"], mask)
    exact = open_data({"x": X, "mask": mask.astype(np.int32)}, TWO).inputs(EVERY)
    assert exact["mask"].dtype == np.int64


def test_labels_by_key_and_switched_off():
    arrays = {"x": X, "y": Y, "species": (Y + 1) % 5}
    assert list(open_data(arrays, ONE, outputs=SCORES, labels="species").labels(EVERY)) == list((Y + 1) % 5)
    off = open_data(arrays, ONE, outputs=SCORES, labels="none")
    assert off.labels(EVERY) is None
    assert make_task(off).labelled is False


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda x: torch.tensor(x, requires_grad=True)])
@pytest.mark.parametrize("whole", [True, False])
def test_inputs_alone_may_be_arrays_or_tensors(kind, whole):
    examples = open_data(kind(X) if whole else [kind(x) for x in X], ONE, outputs=SCORES)
    np.testing.assert_array_equal(examples.inputs(EVERY)["x"], X)
    assert examples.labels(EVERY) is None
    with pytest.raises(DataError, match=r"a model with one input|not a dict"):
        open_data(kind(X) if whole else [kind(x) for x in X], TWO, outputs=SCORES)


def test_an_only_array_feeds_the_only_input_and_that_is_said():
    examples = open_data({"spectra": X, "labels": Y}, ONE, outputs=SCORES)
    assert any("'spectra' is taken as input 'x'" in note for note in examples.notes)


# shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "arrange"),
    [
        ((8, 9), (1, 8, 9), lambda a: a[:, None]),
        ((8, 9, 1), (1, 8, 9), lambda a: a.transpose(0, 3, 1, 2)),
        ((8, 9, 3), (3, 8, 9), lambda a: a.transpose(0, 3, 1, 2)),
        ((3, 8, 9), (8, 9, 3), lambda a: a.transpose(0, 2, 3, 1)),
        ((3, 8, 8), (3, None, "W"), lambda a: a),
        ((8, 9), (72,), lambda a: a.reshape(len(a), 72)),
        ((72,), (1, 8, 9), lambda a: a.reshape(len(a), 1, 8, 9)),
        ((1, 5), (5,), lambda a: a[:, 0]),
        ((), (1,), lambda a: a[:, None]),
        ((3, 3, 3), (3, 3, 3), lambda a: a),
    ],
)
def test_examples_are_arranged_as_the_input_takes_them(found, wanted, arrange):
    array = RNG.standard_normal((4, *found)).astype(np.float32)
    examples = open_data({"x": array}, [info("x", "N", *wanted)])
    np.testing.assert_array_equal(examples.inputs(np.arange(4))["x"], arrange(array))


def test_a_model_with_fixed_batch_takes_the_same_data():
    examples = open_data({"x": X}, [info("x", 4, 3, 4)])
    calls = list(examples.feeding.calls(examples.inputs(np.arange(6)), 100))
    assert [(held, feed["x"].shape) for held, feed in calls] == [(4, (4, 3, 4)), (2, (4, 3, 4))]
    np.testing.assert_array_equal(calls[1][1]["x"][:2], X[4:6])


def test_inputs_without_a_common_batch_axis_are_fed_whole():
    inputs = [info("sound", 1, 16), info("state", 2, 1, 8), info("rate", dtype="int64")]
    feeds = [
        {
            "sound": np.full((1, 16), k, np.float32),
            "state": np.zeros((2, 1, 8), np.float32),
            "rate": np.int64(k),
        }
        for k in range(3)
    ]
    examples = open_data(feeds, inputs)
    assert Feeding.of(inputs).whole
    for k, (held, feed) in enumerate(examples.feeding.calls(examples.inputs(np.arange(3)), 9)):
        assert held == 1
        assert {n: v.shape for n, v in feed.items()} == {"sound": (1, 16), "state": (2, 1, 8), "rate": ()}
        assert feed["rate"] == k
    stacked = {key: np.stack([f[key] for f in feeds]) for key in feeds[0]}
    again = open_data(stacked, inputs).inputs(np.arange(3))
    np.testing.assert_array_equal(again["sound"], stacked["sound"])


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("first", ["N", "T"])
def test_states_that_have_the_batch_behind_their_layers_are_fed_whole(first, batched):
    """Of two layers: the first axis of the states is no batch of two."""
    steps = (5, 1, 4) if first == "T" else (1, 5, 4)
    inputs = [info("x", first, "T" if first == "N" else "N", 4), info("h", 2, "N", 3)]
    x, h = RNG.standard_normal((6, *steps)), RNG.standard_normal((6, 2, 1, 3))
    given = {"x": x, "h": h} if batched else {"x": x.reshape(6, 5, 4), "h": h.reshape(6, 2, 3)}
    examples = open_data({k: v.astype(np.float32) for k, v in given.items()}, inputs)
    for k, (held, feed) in enumerate(examples.feeding.calls(examples.inputs(np.arange(6)), 9)):
        assert held == 1
        np.testing.assert_array_equal(feed["x"], x[k].astype(np.float32))
        np.testing.assert_array_equal(feed["h"], h[k].astype(np.float32))


@pytest.mark.parametrize("steps", [5, 1])
@pytest.mark.parametrize("given", [list, lambda feeds: {n: np.stack([f[n] for f in feeds]) for n in "xh"}])
def test_feeds_of_several_that_belong_together_are_taken_as_they_are(steps, given):
    """Of one step as well, where three of a step look like one of three steps."""
    feeds = [{"x": np.ones((3, steps, 4), np.float32), "h": np.ones((2, 3, 3), np.float32)} for _ in range(2)]
    examples = open_data(given(feeds), [info("x", "N", "T", 4), info("h", 2, "N", 3)])
    assert {n: v.shape for n, v in examples.inputs(np.arange(2)).items()} == {
        "x": (2, 3, steps, 4),
        "h": (2, 2, 3, 3),
    }


@pytest.mark.parametrize(
    "shapes",
    [
        {"x": (4, 3, "T"), "y": (4, "T")},  # a batch of four, of one length
        {"x": ("N", "T", 4), "y": ("N", "T")},
        {"x": ("T", "N", 4)},
        {"x": ("N", "T", 4), "h": (1, "N", 3)},  # one layer: an example alone fits as it is
    ],
)
def test_inputs_with_a_common_batch_axis_are_not_fed_whole(shapes):
    assert not Feeding.of([info(name, *shape) for name, shape in shapes.items()]).whole


def test_predictions_come_back_in_order_whatever_the_calls():
    def double(feed):
        assert feed["x"].shape[0] == 5
        return {"y": feed["x"] * 2, "list": [1]}

    found = Feeding(False, 5).predict(double, {"x": X})
    np.testing.assert_array_equal(found["y"], X * 2)
    assert set(found) == {"y"}


# scaling ---------------------------------------------------------------------------------------------------

PIXELS = RNG.integers(0, 256, (400, 6, 6), dtype=np.uint8)
IMAGE = [info("x", "N", 1, 6, 6)]
BRIGHT = (PIXELS.reshape(400, -1).mean(1) > 127.5).astype(np.int64)


def threshold(limit):
    """Return a model that is right only if its input is scaled so that ``limit`` is the middle."""

    def predict(feed):
        mean = feed["x"].reshape(len(feed["x"]), -1).mean(1)
        return {"y": np.stack([limit - mean, mean - limit], 1)}

    return predict


@pytest.mark.parametrize(
    ("limit", "scaled", "words"),
    [
        (0.5, PIXELS / np.float32(255), "scaled by 1/255: the original model scores 100.0% that way against"),
        (127.5, PIXELS.astype(np.float32), "unscaled: the original model scores 100.0%"),
        (0.0, PIXELS / np.float32(127.5) - 1, "minus (0.5), divided by (0.5): the original model"),
    ],
)
def test_the_scale_is_the_one_the_original_model_is_right_with(limit, scaled, words):
    data = {"x_train": PIXELS, "y_train": BRIGHT}
    examples = open_data(data, IMAGE, outputs=[info("y", "N", 2)], predict=threshold(limit))
    np.testing.assert_allclose(examples.inputs(np.arange(400))["x"][:, 0], scaled, atol=1e-6)
    assert any(words in note for note in examples.notes)
    assert not examples.warnings
    assert words in make_task(examples).origin


def test_where_nothing_tells_the_scale_255_is_taken_with_a_warning():
    for labels, predict in (
        (BRIGHT, None),
        (RNG.integers(0, 2, 400), threshold(3.0)),
        (None, threshold(0.5)),
    ):
        data = {"x": PIXELS} if labels is None else {"x": PIXELS, "labels": labels}
        examples = open_data(data, IMAGE, outputs=[info("y", "N", 2)], predict=predict)
        np.testing.assert_allclose(examples.inputs(np.arange(5))["x"][:, 0], PIXELS[:5] / 255, atol=1e-6)
        assert any("scaled by 1/255, the usual way" in w and "--scale" in w for w in examples.warnings)
        assert make_task(examples).warnings == examples.warnings


def test_scale_mean_and_std_given():
    pixels = RNG.integers(0, 256, (5, 3, 6, 6), dtype=np.uint8)
    item = [info("x", "N", 3, 6, 6)]
    cases = [
        ({"scale": 1.0}, pixels),
        ({"scale": 2.0, "mean": (1.0,)}, pixels * 2.0 - 1),
        ({"mean": (104.0, 117.0, 123.0)}, pixels - np.array([104, 117, 123.0]).reshape(3, 1, 1)),
        (
            {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
            (pixels / 255 - np.array([0.485, 0.456, 0.406]).reshape(3, 1, 1))
            / np.array([0.229, 0.224, 0.225]).reshape(3, 1, 1),
        ),
        ({"scale": 1.0, "color": "bgr"}, pixels[:, ::-1]),
    ]
    for options, expected in cases:
        examples = open_data({"x": pixels}, item, **options)
        np.testing.assert_allclose(examples.inputs(np.arange(5))["x"], expected, rtol=1e-5, atol=1e-5)
        assert not examples.warnings
    last = open_data({"x": pixels}, [info("x", "N", 6, 6, 3)], mean=(1.0, 2.0, 3.0), scale=1.0)
    expected = pixels.transpose(0, 2, 3, 1) - np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(last.inputs(np.arange(5))["x"], expected, rtol=1e-6)


def test_floats_and_integer_inputs_are_not_scaled():
    for array, dtype in ((X, "float32"), (PIXELS[:, 0].astype(np.int64), "int64"), (PIXELS[:, 0], "uint8")):
        examples = open_data({"x": array}, [info("x", "N", *array.shape[1:], dtype=dtype)])
        np.testing.assert_array_equal(examples.inputs(np.arange(3))["x"], array[:3])
        assert not examples.warnings


# images ----------------------------------------------------------------------------------------------------


def _images(folder, layout):
    for name, value in layout.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 10, 3), value, np.uint8)).save(file)
    return folder


RGB = [info("x", "N", 3, 8, 10)]


@pytest.mark.parametrize(
    ("layout", "labels"),
    [
        ({"cat/b.png": 1, "ant/a.png": 2, "ant/c.png": 3}, {1: 1, 2: 0, 3: 0}),
        ({"7/b.png": 1, "12/a.png": 2}, {1: 7, 2: 12}),
        ({"n01/3.png": 1, "n02/9.png": 2}, {1: 3, 2: 9}),
        ({"n01/3.png": 1, "n02/9.png": 2, "n02/10.png": 3}, {1: 0, 2: 1, 3: 1}),
    ],
)
def test_classes_of_image_folders(tmp_path, layout, labels):
    examples = open_data(_images(tmp_path, layout), RGB, scale=1.0)
    found = examples.inputs(np.arange(len(examples)))["x"]
    assert found.shape == (len(layout), 3, 8, 10)
    assert (
        dict(zip(found[:, 0, 0, 0].astype(int), examples.labels(np.arange(len(layout))), strict=True))
        == labels
    )


def test_images_with_splits_or_without_classes(tmp_path):
    split = {"train/a/1.png": 1, "train/b/2.png": 2, "val/a/3.png": 3, "val/b/4.png": 4, "test/a/5.png": 5}
    task = make_task(open_data(_images(tmp_path / "s", split), RGB, scale=1.0))
    assert (len(task.train), len(task.validation), len(task.test)) == (2, 2, 1)
    bare = open_data(_images(tmp_path / "p", {"2.png": 2, "10.png": 10}), RGB, scale=1.0)
    assert bare.labels(np.arange(2)) is None
    assert list(bare.inputs(np.arange(2))["x"][:, 0, 0, 0]) == [2, 10]


def test_classes_are_numbered_over_all_splits(tmp_path):
    """A class that a split lacks shifts no other; hidden folders are none, and pictures may lie deeper."""
    layout = {
        "train/ant/1.png": 1, "train/bee/2.png": 2, "train/cat/deep/down/3.png": 3,
        "val/bee/4.png": 4, "test/ant/5.png": 5, "test/cat/6.png": 6, "test/.thumbs/a.png": 9,
    }  # fmt: skip
    folder = _images(tmp_path, layout)
    (folder / "val" / "ant").mkdir()
    (folder / "train" / "ant" / "round").symlink_to(folder / "train", target_is_directory=True)
    examples = open_data(folder, RGB, scale=1.0)
    assert len(examples) == 6, "a link that leads in a circle is not followed"
    pixels = examples.inputs(np.arange(len(examples)))["x"][:, 0, 0, 0].astype(int)
    labels = examples.labels(np.arange(len(examples)))
    assert dict(zip(pixels, labels, strict=True)) == {1: 0, 2: 1, 3: 2, 4: 1, 5: 0, 6: 2}


def test_an_empty_class_folder_is_an_error_where_order_counts(tmp_path):
    folder = _images(tmp_path / "a", {"bee/1.png": 1, "cat/2.png": 2, "cat/3.png": 3, "loose.png": 4})
    assert "were left out: 1" in " ".join(open_data(folder, RGB, scale=1.0).notes)
    (folder / "ant").mkdir()
    with pytest.raises(DataError, match=r"folder 'ant' holds no images .*numbered in the order"):
        open_data(folder, RGB, scale=1.0)
    numbered = _images(tmp_path / "b", {"0/1.png": 1, "2/2.png": 2})
    (numbered / "1").mkdir()
    assert open_data(numbered, RGB, scale=1.0).labels(np.arange(2)).tolist() == [0, 2]
    long = _images(tmp_path / "c", {f"{'9' * 20}/a.png": 1, f"{'8' * 20}/b.png": 2})
    assert open_data(long, RGB, scale=1.0).labels(np.arange(2)).tolist() == [0, 1], "names, not numbers"


def test_a_class_without_training_images_is_told(tmp_path):
    layout = {"train/bee/a.png": 1, "train/cat/b.png": 2, "test/Ant/c.png": 3, "test/bee/d.png": 4}
    examples = open_data(_images(tmp_path, layout), RGB, scale=1.0)
    assert "the training split has no images of class 'Ant'" in examples.notes


def test_a_broken_first_image_is_told_where_its_size_is_asked_for(tmp_path):
    (tmp_path / "a.png").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"cannot read the image \(a\.png\)"):
        open_data(tmp_path, [info("x", "N", 3, None, None)])


def test_deep_pixels_become_eight_bits_and_unknown_ranges_are_refused(tmp_path):
    eight = np.arange(80, dtype=np.uint8).reshape(8, 10) * 3
    grey = [info("x", "N", 1, 8, 10)]
    Image.fromarray(eight).save(_made(tmp_path / "8") / "a.png")
    for factor in (256, 257):
        Image.fromarray(eight.astype(np.uint16) * factor).save(_made(tmp_path / f"{factor}") / "a.png")
    (_made(tmp_path / "pgm") / "a.pgm").write_bytes(
        b"P5 10 8 65535\n" + (eight.astype(np.uint16) * 256).astype(">u2").tobytes()
    )
    Image.fromarray(eight.astype(np.float32)).save(_made(tmp_path / "f") / "a.tif")
    for depth, item in itertools.product(("8", "256", "257", "pgm"), (grey, RGB)):
        found = open_data(tmp_path / depth, item, scale=1.0).inputs(np.arange(1))["x"]
        np.testing.assert_array_equal(found[0], np.broadcast_to(eight, found[0].shape))
    with pytest.raises(
        DataError, match=r"cannot read the image \(a\.tif\): its pixels are numbers of 32 bits"
    ):
        open_data(tmp_path / "f", grey, scale=1.0)


def _made(folder):
    folder.mkdir()
    return folder


def test_examples_that_cannot_be_read_are_found_and_placed(tmp_path):
    bad = X.copy()
    bad[7] = np.nan
    several = {"x_train": np.tile(X, (3, *[1] * (X.ndim - 1))), "x_test": bad}
    labels = {"y_train": np.tile(Y, 3), "y_test": Y}
    task = make_task(open_data({**several, **labels}, ONE, outputs=SCORES))
    with pytest.raises(DataError, match=r"NaN or infinity .*test split, input 'x', example 7\b"):
        task.samples.look_through(task.test)
    task.samples.look_through(task.validation)
    layout = {f"{split}/{c}/{k}.png": k for split in ("train", "test") for c in "ab" for k in range(20)}
    folder = _images(tmp_path, layout)
    (folder / "test" / "b" / "17.png").write_bytes(b"cut off")
    task = make_task(open_data(folder, RGB, scale=1.0))
    with pytest.raises(DataError, match=r"cannot read the image \(test.b.17\.png\)"):
        task.samples.look_through(task.test)


def test_images_are_resized_cropped_and_laid_out(tmp_path):
    gradient = np.zeros((64, 96, 3), np.uint8)
    gradient[..., 0] = np.linspace(0, 255, 96)
    Image.fromarray(gradient).save(tmp_path / "a.png")
    first = open_data(tmp_path, [info("x", 1, 3, 28, 28)], scale=1.0).inputs(np.arange(1))["x"]
    assert first.shape == (1, 3, 28, 28)
    # 64 → 32 on the shorter side, the middle 28 of 48 columns: columns 10 to 37 of a ramp from 0 to 255
    np.testing.assert_allclose(first[0, 0, 14], np.linspace(10, 37, 28) / 47 * 255, atol=4)
    last = open_data(tmp_path, [info("x", 1, None, None, 3)], scale=1.0, image_size=(28, 28))
    np.testing.assert_array_equal(last.inputs(np.arange(1))["x"][0], first[0].transpose(1, 2, 0))
    grey = open_data(tmp_path, [info("x", 1, 1, 28, 28)], scale=1.0).inputs(np.arange(1))["x"]
    np.testing.assert_allclose(grey[0, 0], first[0, 0] * 0.299, atol=1)
    grey3 = open_data(tmp_path, [info("x", 1, 3, 28, 28)], scale=1.0, color="gray").inputs(np.arange(1))["x"]
    np.testing.assert_array_equal(grey3, np.repeat(grey, 3, axis=1))
    square = open_data(tmp_path, [info("x", 1, 3, None, None)], scale=1.0, image_size=28).inputs(
        np.arange(1)
    )["x"]
    np.testing.assert_array_equal(square, first)
    swapped = open_data(tmp_path, [info("x", 1, 3, 28, 28)], scale=1.0, color="bgr").inputs(np.arange(1))["x"]
    np.testing.assert_array_equal(swapped, first[:, ::-1])


# labels ----------------------------------------------------------------------------------------------------


def test_one_hot_labels_become_classes():
    examples = open_data({"x": X, "y": np.eye(5, dtype=np.float32)[Y]}, ONE, outputs=SCORES)
    np.testing.assert_array_equal(examples.labels(EVERY), Y)
    assert make_task(examples).loss == "ce"


def test_labels_that_are_values_and_dense_labels():
    values = RNG.standard_normal((12, 5))
    task = make_task(open_data({"x": X, "y": values}, ONE, outputs=SCORES))
    assert (task.loss, task.metric) == ("mse", "mse")
    dense = RNG.integers(0, 5, (12, 7))
    for output in (info("y", "N", 5, 7), info("y", "N", 7, 5)):
        examples = open_data({"x": X, "y": dense}, ONE, outputs=[output])
        assert (examples.targets.kind, examples.targets.classes) == ("classes", 5)
    boxes = info("boxes", "N", 40, 4)
    assert open_data({"x": X, "y": Y}, ONE, outputs=[boxes, *SCORES]).targets.output == "y"


# the task --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("val", "count"), [(None, 10), (0.25, 25), (7, 7), (1, 1)])
def test_the_validation_split_is_seeded_and_apart(val, count):
    examples = open_data({"x": np.zeros((100, 3, 4), np.float32)}, ONE)
    first, again, other = (make_task(examples, val=val, seed=s) for s in (1, 1, 2))
    assert len(first.validation) == count
    assert sorted([*first.train, *first.validation]) == list(range(100))
    np.testing.assert_array_equal(first.validation, again.validation)
    assert (first.validation != other.validation).any()


def test_a_limit_draws_that_many_examples_and_leaves_the_test_split():
    arrays = {"x_train": np.zeros((100, 3, 4), np.float32), "x_test": np.zeros((30, 3, 4), np.float32)}
    examples = open_data(arrays, ONE)
    task = make_task(examples, limit=40, seed=1)
    assert (len(task.train), len(task.validation), len(task.test)) == (36, 4, 30)
    assert not set(task.train) & set(task.validation)
    other = make_task(examples, limit=40, seed=2)
    assert set(other.train) != set(task.train)
    assert "40 of 100 training examples" in task.origin
    assert len(make_task(examples, limit=1000).train) == 90


def test_one_example_is_trained_and_validated_on():
    task = make_task(open_data({"x": X[:1]}, ONE))
    assert list(task.train) == list(task.validation) == [0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"val": 0}, UsageError, "--val must be positive"),
        ({"limit": 0}, UsageError, "--limit must be positive"),
        ({"val": 12}, DataError, "--val 12 leaves nothing to train on"),
        ({"loss": "hinge"}, UsageError, "unknown loss 'hinge'"),
        ({"loss": "ce"}, UsageError, "loss 'ce' needs labels"),
        ({"metric": "top1"}, UsageError, "metric 'top1' needs class labels"),
        ({"metric": "f1"}, UsageError, "unknown metric 'f1'"),
        ({"loss": "nowhere.py:loss"}, UsageError, "there is no file"),
        ({"loss": "no_such_module:loss"}, UsageError, "cannot load the loss"),
    ],
)
def test_a_task_that_cannot_be(options, error, words):
    with pytest.raises(error, match=words):
        make_task(open_data({"x": X}, ONE), **options)


def test_a_loss_that_the_labels_are_not_for():
    outputs = [info("y", "N", 5)]
    classes = open_data({"x": X, "labels": np.arange(len(X)) % 5}, ONE, outputs=outputs)
    values = open_data({"x": X, "labels": np.zeros((len(X), 5), np.float32) + 0.5}, ONE, outputs=outputs)
    for examples, loss, words, other in (
        (classes, "mse", "loss 'mse' needs values", "ce"),
        (classes, "0.5*ce+mse", "loss 'mse' needs values", "ce"),
        (values, "ce", "loss 'ce' needs classes", "mse"),
    ):
        with pytest.raises(UsageError, match=f"{words}.*; use {other}"):
            make_task(examples, loss=loss)
        assert make_task(examples, loss=other).loss == other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layout": "chwn"}, "--layout cannot be 'chwn'"),
        ({"color": "pink"}, "known: rgb, bgr, gray"),
        ({"image_size": (3, 4, 5)}, "--image-size"),
        ({"image_size": 0}, "--image-size"),
        ({"mean": (1.0, 2.0)}, "--mean has 2 numbers"),
        ({"std": 0.0}, "--std holds a number"),
        ({"scale": 0.0}, "--scale cannot be used"),
        ({"crop": 1}, "unknown data option 'crop'"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        open_data({"x": np.zeros((4, 3, 6, 6), np.uint8)}, [info("x", "N", 3, 6, 6)], **options)


# bad data --------------------------------------------------------------------------------------------------

_NAN = X.copy()
_NAN[3, 1, 1] = np.nan


@pytest.mark.parametrize("given", ["items", "files"])
@pytest.mark.parametrize(
    "parts",
    [
        [np.array([["ab"]]), np.array([["abcdef"]]), np.array([["x"]])],
        [np.array([[1]], np.int8), np.array([[1000]], np.int32), np.array([[-1]], np.int8)],
        [np.array([[1]], np.float16), np.array([[1e9]], np.float64), np.array([[2]], ">f4")],
    ],
)
def test_later_examples_may_be_wider_than_the_first(tmp_path, parts, given):
    inputs = [info("x", "N", 1, dtype={"U": "object", "i": "int64", "f": "float64"}[parts[0].dtype.kind])]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"{number}.npy", part)
    examples = open_data([{"x": p} for p in parts] if given == "items" else tmp_path, inputs)
    found = examples.inputs(np.arange(3))["x"]
    assert found.tolist() == [p[0].tolist() for p in parts]


def test_text_may_be_given_as_objects():
    words = np.array([["ab"], ["abc"]], dtype=object)
    found = open_data([{"x": words}], [info("x", "N", 1, dtype="object")]).inputs(np.arange(2))["x"]
    assert found.tolist() == [["ab"], ["abc"]]


BAD = {
    "missing input": ({"mask": X}, TWO, r"does not feed input 'x' .*keys found: 'mask'"),
    "nothing at all": ({}, ONE, r"does not feed input 'x'.*keys found: none"),
    "missing in a split": (
        {"x_train": X, "mask_train": X, "x_test": X},
        TWO,
        r"does not feed input 'mask' .*test",
    ),
    "wrong shape": (
        {"x": X[:, :2]},
        ONE,
        r"'x' does not fit input 'x': found 12 × 2 × 4, expected N × 3 × 4",
    ),
    "too many axes": ({"x": X[..., None, None] + np.zeros((2, 2))}, ONE, r"found 12 × 3 × 4 × 2 × 2"),
    "lengths": ({"x": X, "labels": Y[:7]}, ONE, r"differ in their number of examples.*'x' 12, 'labels' 7"),
    "empty": ({"x": X[:0]}, ONE, r"the data is empty"),
    "NaN": ({"x": _NAN}, ONE, r"holds NaN or infinity .*key 'x', example 3"),
    "infinity": ({"x": np.where(np.isnan(_NAN), np.inf, X)}, ONE, r"holds NaN or infinity"),
    "too large": (
        {"x": X.astype(float) * 1e300},
        ONE,
        r"too large for float32 .*key 'x', example 0\): the data is unscaled",
    ),
    "floats for integers": (
        {"x": X, "mask": np.ones((12, 2))},
        TWO,
        r"found float64, expected whole numbers",
    ),
    "text for numbers": ({"x": np.full((12, 3, 4), "a")}, ONE, r"wrong type.*found <U1, expected float32"),
    "labels too large": ({"x": X, "y": Y + 3}, ONE, r"'y' are out of range .*has 5 classes, 0 to 4"),
    "labels from 1": ({"x": X, "y": np.arange(12) % 5 + 1}, ONE, r"found 1 to 5.*subtract 1"),
    "labels negative": ({"x": X, "y": Y - 9}, ONE, r"out of range"),
    "labels NaN": ({"x": X, "y": np.full(12, np.nan)}, ONE, r"labels 'y' hold NaN"),
    "labels text": ({"x": X, "y": np.full(12, "cat")}, ONE, r"labels 'y' are not numbers"),
    "labels of no output": ({"x": X, "y": np.zeros((12, 9))}, ONE, r"fit no output.*\(9\), .*'y' \(5\)"),
    "two labels": ({"x": X, "y": Y, "labels": Y}, ONE, r"two arrays could be the labels.*--labels"),
    "test only": ({"x_test": X}, ONE, r"nothing to train on.*'x_test'"),
    "objects": ({"x": np.array([object()] * 12)}, ONE, r"not an array of examples"),
    "not dicts": ([1, 2], ONE, r"item of the data is not a dict .*item 0"),
    "no items": ([], ONE, r"the data is empty"),
    "items differ": ([{"x": X[0]}, {"x": X[0], "labels": 1}], ONE, r"differ in their keys .*item 1"),
    "item shape": ([{"x": X[0]}, {"x": X[0, :1]}], ONE, r"item 1|does not fit input 'x'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_one_clear_sentence(case):
    data, inputs, words = BAD[case]
    with pytest.raises(DataError, match=words) as error:
        open_data(data, inputs, outputs=SCORES)
    assert "\n" not in str(error.value)


def _archive_of_objects(folder):
    np.savez(folder / "o.npz", x=np.array([{"a": 1}], object))
    return folder / "o.npz"


def _cut(folder):
    whole = _npz(folder, True, x=X, labels=Y).read_bytes()
    (folder / "cut.npz").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.npz"


def _cut_npy(folder):
    np.save(folder / "d.npy", X)
    (folder / "d.npy").write_bytes((folder / "d.npy").read_bytes()[:-10])
    return folder / "d.npy"


def _text(folder, name, text="hello"):
    (folder / name).write_text(text)
    return folder / name


def _not_npz(folder):
    with zipfile.ZipFile(folder / "z.npz", "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    return folder / "z.npz"


FILES = {
    "no such file": (lambda f: f / "none.npz", r"not there .*no such file"),
    "unknown kind": (lambda f: _text(f, "data.csv"), r"no kind that can be read .*known kinds: .*data\.npz"),
    "not an archive": (lambda f: _text(f, "d.npz"), r"not an \.npz archive"),
    "no arrays in it": (_not_npz, r"holds no arrays"),
    "archive cut": (_cut, r"not an \.npz archive"),
    "array cut": (_cut_npy, r"data file is cut"),
    "not an array": (lambda f: _text(f, "d.npy"), r"not a \.npy array"),
    "pickled objects": (_archive_of_objects, r"holds Python objects .*unpickled"),
    "empty folder": (lambda f: (f / "e").mkdir() or f / "e", r"no images and no arrays"),
    "no such function": (lambda f: f"{_text(f, 'm.py', 'x = 1')}:feeds", r"defines no function 'feeds'"),
    "no such module": (lambda f: f"{f / 'none.py'}:feeds", r"there is no file"),
    "module fails": (lambda f: f"{_text(f, 'm.py', '1 / 0')}:feeds", r"ZeroDivisionError"),
    "function fails": (
        lambda f: _function(f, "def feeds():\n    yield {'x': X[0]}\n    1 / 0"),
        r"ZeroDivision",
    ),
    "function of nothing": (lambda f: _function(f, "def feeds():\n    return 3"), r"nothing to iterate over"),
    "broken image": (lambda f: _text(f, "a.png").parent, r"cannot read the image"),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files_are_one_clear_sentence(case, tmp_path):
    make, words = FILES[case]
    with pytest.raises(UsageError, match=words) as error:
        open_data(make(tmp_path), [info("x", "N", 3, 4)] if "image" not in case else RGB, outputs=SCORES)
    assert "\n" not in str(error.value)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    np.savez(tmp_path / "d.npz", x=np.array([Bomb()], object))
    np.save(tmp_path / "d.npy", np.array([Bomb()], object))
    for name in ("d.npz", "d.npy"):
        with pytest.raises(DataError):
            open_data(tmp_path / name, ONE)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("own", [True, False])
def test_a_part_of_a_split_stands_for_the_whole_where_data_is_sorted_by_class(own):
    """As every folder of images is; what is calibrated, probed or compared on a part must see all classes."""
    labels = np.repeat(np.arange(10), 60)
    rows = np.zeros((600, 3, 4), np.float32) + labels[:, None, None]
    arrays = {"x_train": rows, "y_train": labels, "x_test": rows, "y_test": labels}
    if own:
        arrays |= {"x_val": rows, "y_val": labels}
    ten = [info("y", "N", 10)]
    task = make_task(open_data(arrays, ONE, outputs=ten), val=None if own else 0.5, seed=3)
    for split in (task.validation, task.test):
        assert set(task.samples.labels(split[:60])) == set(range(10))
        assert len(set(split)) == len(split)
    for split in ("train", "validation"):
        seen = [int(np.ravel(feed["x"])[0]) for feed in calls_of(task, split, 60)]
        assert set(seen) == set(range(10))
    assert (np.diff(task.train) > 0).all(), "what is read in order is read faster"


def _functions(path):
    path.write_text(
        "def few(outputs, labels):\n    return 0.0\n"
        "def raises(outputs, labels, teacher):\n    raise ValueError('mine')\n"
        "def text(outputs, labels, teacher):\n    return 'good'\n"
        "def number(outputs, labels, teacher):\n    return 1.5\n"
    )
    return path


@pytest.mark.parametrize(
    ("function", "kinds", "says"),
    [
        ("few", ("loss", "metric"), "TypeError"),
        ("raises", ("loss", "metric"), "ValueError: mine"),
        ("text", ("loss", "metric"), "ValueError: could not convert"),
        ("number", ("loss",), "returned float"),
    ],
)
def test_own_functions_that_fail_are_the_users(tmp_path, function, kinds, says):
    path = _functions(tmp_path / "own.py")
    for kind in kinds:
        task = make_task(open_data({"x": X}, ONE), **{kind: f"{path}:{function}"})
        with pytest.raises(UsageError, match=rf"the {kind} '{function}' failed: .*{says}.*\(outputs, labels"):
            getattr(task, kind)({}, None, {})


def test_own_functions_that_answer_are_used(tmp_path):
    task = make_task(open_data({"x": X}, ONE), metric=f"{_functions(tmp_path / 'own.py')}:number")
    assert task.metric({}, None, {}) == 1.5
    assert task.metric.__name__ == "number"


def test_an_own_loss_is_called_without_a_word(tmp_path, recwarn):
    """A tensor that gradients reach is read without torch warning of it."""
    path = tmp_path / "own.py"
    path.write_text("def scaled(outputs, labels, teacher):\n    return (outputs['y'] ** 2).mean()\n")
    task = make_task(open_data({"x": X}, ONE), loss=f"{path}:scaled")
    y = torch.ones(3, requires_grad=True)
    task.loss({"y": y}, None, {}).backward()
    assert y.grad.tolist() == pytest.approx([2 / 3] * 3)
    assert not recwarn.list


def test_an_own_loss_whose_gradient_is_lost_is_refused(tmp_path):
    """Nothing would be trained by it, and nothing told of that."""
    path = tmp_path / "own.py"
    path.write_text("def cut(outputs, labels, teacher):\n    return (outputs['y'].detach() ** 2).mean()\n")
    task = make_task(open_data({"x": X}, ONE), loss=f"{path}:cut")
    with pytest.raises(UsageError, match="the loss 'cut' failed: its result has no gradient"):
        task.loss({"y": torch.ones(3, requires_grad=True)}, None, {})
    assert task.loss({"y": torch.ones(3)}, None, {}).item() == 1.0  # evaluation needs none
