"""Random inputs: accepted by onnxruntime without any option, on the dynamic models people have."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import importer
from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.engine import runtime
from onnxcompress.engine.feeds import random_feeds, resolve_shapes
from onnxcompress.engine.tensor_info import TensorInfo

FLOAT, INT32, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL
info = helper.make_tensor_value_info
node = helper.make_node
RNG = np.random.default_rng(0)


def weight(name, *shape):
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32), name)


def const(name, values):
    return numpy_helper.from_array(np.array(values), name)


def opened(nodes, inputs, outputs, initializers=(), opset=17):
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    opsets = [helper.make_opsetid("", opset)]
    model = importer.load(helper.make_model(graph, opset_imports=opsets, ir_version=9))
    from onnxcompress.engine.proto import to_proto

    return model, runtime.open_session(to_proto(model.ir).SerializeToString())


def tried(model, session, given=None, examples=3):
    """Resolve, draw, run; every output finite. Returns the feeds."""
    shapes = resolve_shapes(model, session, given or {})
    found = random_feeds(session.inputs, seed=1, shapes=shapes, examples=examples, model=model)
    for feed in found:
        for output in session.run(feed).values():
            assert np.isfinite(np.asarray(output, np.float64)).all()
            assert np.asarray(output).size
    return found


def bert():
    """Ids, mask and segment with the usual names; tables of 30 words, 2 segments, 64 positions."""
    tables = [weight("words", 30, 8), weight("segments", 2, 8), weight("positions", 64, 8)]
    constants = [
        const("one", np.int64(1)),
        const("zero", np.int64(0)),
        const("step", np.int64(1)),
        const("axis", [1]),
    ]
    nodes = [
        node("Gather", ["words", "input_ids"], ["w"]),
        node("Gather", ["segments", "token_type_ids"], ["s"]),
        node("Shape", ["input_ids"], ["shape"]),
        node("Gather", ["shape", "one"], ["length"]),
        node("Range", ["zero", "length", "step"], ["places"]),
        node("Gather", ["positions", "places"], ["p"]),
        node("Add", ["w", "s"], ["ws"]),
        node("Add", ["ws", "p"], ["h"]),
        node("Cast", ["attention_mask"], ["m"], to=FLOAT),
        node("Unsqueeze", ["m", "axis"], ["mask"]),
        node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        node("Mul", ["t", "mask"], ["masked"]),
        node("ReduceSum", ["masked"], ["sum"], keepdims=0),
        node("ReduceSum", ["m"], ["count"], keepdims=0),
        node("Div", ["sum", "count"], ["y"]),  # 0/0 for a mask of zeros
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [info(n, INT64, ["batch_size", "sequence_length"]) for n in names]
    return opened(nodes, inputs, [info("y", FLOAT, None)], [*tables, *constants])


def test_bert_like():
    model, session = bert()
    for feed in tried(model, session):
        assert 0 <= feed["input_ids"].min() < feed["input_ids"].max() < 30
        assert feed["token_type_ids"].max() <= 1
        assert (feed["attention_mask"] == 1).all()
        assert len({a.shape for a in feed.values()}) == 1
        assert feed["input_ids"].shape[1] <= 64


def test_the_whole_table_is_used():
    model, session = bert()
    ids = np.concatenate([f["input_ids"].ravel() for f in tried(model, session, examples=60)])
    assert set(ids) == set(range(30))


def test_states_share_the_batch_of_the_input():
    nodes = [node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["", "y", "y_c"], hidden_size=5)]
    inputs = [
        info("x", FLOAT, [None, None, 4]),
        info("h", FLOAT, [1, None, 5]),
        info("c", FLOAT, [1, None, 5]),
    ]
    outputs = [info("y", FLOAT, None), info("y_c", FLOAT, None)]
    model, session = opened(nodes, inputs, outputs, [weight("W", 1, 20, 4), weight("R", 1, 20, 5)])
    feed = tried(model, session)[0]
    assert feed["x"].shape[1] == feed["h"].shape[1] == feed["c"].shape[1]


def test_sequence_lengths_fit_the_sequence():
    nodes = [node("GRU", ["x", "W", "R", "", "lengths"], ["", "y"], hidden_size=5)]
    inputs = [info("x", FLOAT, ["time", "batch", 4]), info("lengths", INT32, ["batch"])]
    model, session = opened(
        nodes, inputs, [info("y", FLOAT, None)], [weight("W", 1, 15, 4), weight("R", 1, 15, 5)]
    )
    feed = tried(model, session)[0]
    assert (feed["lengths"] == feed["x"].shape[0]).all()


def test_sizes_computed_from_others():
    """A decoder with a cache: the mask covers what is past and what is new."""
    nodes = [
        node("Concat", ["past", "new"], ["present"], axis=1),
        node("Mul", ["present", "mask"], ["y"]),
    ]
    names = {"past": "past_sequence_length", "new": "sequence_length"}
    for total in ("past_sequence_length + sequence_length", "total_sequence_length"):
        inputs = [info(n, FLOAT, ["batch", d]) for n, d in names.items()]
        inputs.append(info("mask", FLOAT, ["batch", total]))
        model, session = opened(nodes, inputs, [info("y", FLOAT, None)])
        shapes = resolve_shapes(model, session, {})
        assert shapes["mask"][1] == shapes["past"][1] + shapes["new"][1]
        tried(model, session)


def test_image_sides_that_the_network_needs():
    """Two halvings, an upsampling and a skip connection: only multiples of four run."""
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[2, 2], strides=[2, 2]),
        node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Resize", ["b", "", "scales"], ["c"], mode="nearest"),
        node("Add", ["x", "c"], ["y"]),
    ]
    model, session = opened(
        nodes,
        [info("x", FLOAT, ["N", 3, "H", "W"])],
        [info("y", FLOAT, None)],
        [const("scales", np.float32([1, 1, 4, 4]))],
    )
    (shape,) = resolve_shapes(model, session, {}).values()
    assert shape[:2] == (1, 3)
    assert shape[2] >= 32
    assert shape[2] % 4 == shape[3] % 4 == 0


def test_values_compared_with_constants():
    nodes = [
        node("Equal", ["sr", "rate"], ["is"]),
        node("Cast", ["is"], ["f"], to=FLOAT),
        node("Sum", ["f", "x"], ["h"]),
        node("Log", ["f"], ["l"]),  # only finite for the right rate
        node("Add", ["l", "h"], ["y"]),
    ]
    inputs = [info("x", FLOAT, [2]), info("sr", INT64, [])]
    model, session = opened(nodes, inputs, [info("y", FLOAT, None)], [const("rate", np.int64(44100))])
    assert all(f["sr"] == 44100 for f in tried(model, session))


@pytest.mark.parametrize("way", ["OneHot", "Equal"])
def test_one_hot_codes(way):
    if way == "OneHot":
        values = [const("depth", np.int64(257)), const("values", np.float32([0, 1]))]
        nodes = [node("OneHot", ["x", "depth", "values"], ["y"])]
    else:
        values = [const("codes", np.arange(257, dtype=np.int32)), const("last", [-1])]
        nodes = [
            node("Unsqueeze", ["x", "last"], ["u"]),
            node("Equal", ["u", "codes"], ["e"]),
            node("Cast", ["e"], ["y"], to=FLOAT),
        ]
    kind = INT64 if way == "OneHot" else INT32
    model, session = opened(nodes, [info("x", kind, ["N", 400])], [info("y", FLOAT, None)], values)
    (feed,) = tried(model, session, examples=1)
    assert feed["x"].max() > 128
    assert 0 <= feed["x"].min() <= feed["x"].max() <= 256


@pytest.mark.parametrize(("operator", "low"), [("Log", 0), ("Sqrt", 0)])
def test_domains_of_functions_are_found_by_trying(operator, low):
    model, session = opened(
        [node(operator, ["x"], ["y"])], [info("x", FLOAT, [4, 5])], [info("y", FLOAT, None)]
    )
    assert all((f["x"] >= low).all() for f in tried(model, session))
    assert all((f["x"] >= low).all() for f in tried(importer_clone(model), session))


def importer_clone(model):
    from onnxcompress.core.model import Model

    return Model(model.ir.clone(), model.source)


def test_pixels_where_the_model_scales_them():
    nodes = [node("Div", ["x", "c"], ["y"])]
    model, session = opened(
        nodes, [info("x", FLOAT, [1, 3, 8, 8])], [info("y", FLOAT, None)], [const("c", np.float32(255))]
    )
    assert tried(model, session)[0]["x"].max() > 100


@pytest.mark.parametrize("kind", ["UINT8", "INT8", "BOOL", "FLOAT16", "DOUBLE", "INT32", "STRING"])
def test_every_type(kind):
    number = getattr(TensorProto, kind)
    model, session = opened(
        [node("Identity", ["x"], ["y"])], [info("x", number, ["N", 300])], [info("y", number, None)]
    )
    shapes = resolve_shapes(model, session, {})
    (feed,) = random_feeds(session.inputs, seed=0, shapes=shapes, model=model)
    assert feed["x"].dtype == session.inputs[0].numpy
    assert len(set(feed["x"].ravel().tolist())) > 1
    if kind == "UINT8":
        assert feed["x"].max() > 200


def test_sequences_of_tensors():
    nodes = [node("ConcatFromSequence", ["s"], ["y"], axis=0)]
    inputs = [helper.make_tensor_sequence_value_info("s", FLOAT, None)]
    model, session = opened(nodes, inputs, [info("y", FLOAT, None)])
    assert len(tried(model, session)[0]["s"]) == 2


def test_shapes_given_by_the_user_win_and_bind_others():
    model, session = bert()
    shapes = resolve_shapes(model, session, {"input_ids": (3, 11)})
    assert set(shapes.values()) == {(3, 11)}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"nope": (1, 2)}, "has no input 'nope'"),
        ({"input_ids": (1, 2, 3)}, "does not fit input 'input_ids'"),
        ({"input_ids": (1, -2)}, "does not fit"),
    ],
)
def test_wrong_shapes_are_the_users(given, words):
    model, session = bert()
    with pytest.raises(UsageError, match=words) as caught:
        resolve_shapes(model, session, given)
    assert "\n" not in str(caught.value)


def test_nothing_fits_is_said_with_the_option():
    nodes = [node("Reshape", ["x", "shape"], ["y"])]
    model, session = opened(
        nodes, [info("x", FLOAT, ["N", "M"])], [info("y", FLOAT, None)], [const("shape", [7919, 7907])]
    )
    with pytest.raises(UnsupportedError, match="--input-shape") as caught:
        resolve_shapes(model, session, {})
    assert "Reshape" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_seeds():
    infos = [TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 4))]
    a, b = random_feeds(infos, seed=3, examples=2)
    again = random_feeds(infos, seed=3, examples=2)
    assert np.array_equal(a["x"], again[0]["x"])
    assert not np.array_equal(a["x"], b["x"])
    assert not np.array_equal(a["x"], random_feeds(infos, seed=4)[0]["x"])
    assert a["x"].shape == (1, 4)
    assert random_feeds(infos, seed=0, shapes={"x": (5, 4)})[0]["x"].shape == (5, 4)


@pytest.mark.parametrize(("least", "found"), [(10, 128), (200, 224)])
def test_large_sizes_are_put_off_but_taken_where_only_they_run(least, found, monkeypatch):
    """A kernel as wide as ``least`` needs such a picture; 20,000 elements are more than is liked."""
    monkeypatch.setattr("onnxcompress.engine.feeds._LARGEST_ELEMENTS", 20_000)
    model, session = opened(
        [node("Relu", ["x"], ["r"]), node("Conv", ["r", "w"], ["y"], strides=[least, least])],
        [info("x", FLOAT, ["N", 1, "height", "width"])],
        [info("y", FLOAT, ["N", 1, "h", "w"])],
        [weight("w", 1, 1, least, least)],
    )
    assert resolve_shapes(model, session, {})["x"] == (1, 1, found, found)
