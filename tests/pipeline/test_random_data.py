"""Random numbers instead of data: what is said of them speaks of random numbers, not of anything given."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper, numpy_helper
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import DataError, UnsupportedError, UsageError
from onnxcompress.engine.data import Items, open_data
from onnxcompress.pipeline import sensitivity as stage
from onnxcompress.pipeline._data import Given, random_examples, with_sizes
from onnxcompress.pipeline._original import open_original
from onnxcompress.recipe import build

WEIGHTS = {"a": (40, 64), "b": (64, 40)}


def without_inputs():
    return proto_of("y = MatMul (a, b)", "", "float[40, 40] y", WEIGHTS)


def product():
    return proto_of("y = MatMul (x, b)", "float[N, 64] x", "float[N, 40] y", {"b": (64, 40)})


def ranked(proto, **data):
    return stage.sensitivity(proto, build(["half"], {}, data=data), examples=4)


def test_where_an_example_lies_tells_of_random_numbers():
    original = with_sizes(open_original(product(), 1), {}, Given())
    examples = random_examples(original, 3, seed=0)
    assert examples.random
    assert examples.place(1) == "random numbers, example 1"
    infos = original.session.inputs
    # Negative control: the same feeds as a person gives them.
    feeds = [{"x": np.zeros((1, 64), np.float32)}] * 2
    assert open_data(feeds, infos).place(1) == "list given in Python, example 1"
    with pytest.raises(DataError, match=r"an item of the data is not a dict \(random numbers, item 1\)"):
        open_data(Items([*feeds[:1], "text"], "random numbers"), infos)


def test_a_model_without_inputs():
    with pytest.raises(UnsupportedError, match=r"no inputs.* damage is how far outputs move"):
        ranked(without_inputs())
    with pytest.raises(UsageError, match="nothing that random numbers could feed"):
        onnxcompress.compress(without_inputs(), method="half", random_data=True)
    data = {"x": np.zeros((8, 64), np.float32)}
    for command in (
        lambda: ranked(without_inputs(), path=data),
        lambda: onnxcompress.compress(without_inputs(), method="half", data=data),
    ):
        with pytest.raises(DataError, match="nothing that data could feed"):
            command()
    assert onnxcompress.compress(without_inputs(), method="half", benchmark=False).run.weights
    assert ranked(product()).run.sensitivity


def test_data_and_random_numbers_exclude_each_other():
    data = {"x": np.zeros((8, 64), np.float32)}
    with pytest.raises(UsageError, match="exclude each other"):
        ranked(product(), path=data, random=True)
    with pytest.raises(UsageError, match="exclude each other"):
        onnxcompress.compress(product(), method="half", data=data, random_data=True)
    assert ranked(product(), random=True).run.sensitivity.random_inputs


def test_an_input_that_is_no_tensor():
    nodes = [
        helper.make_node("ConcatFromSequence", ["s"], ["x"], axis=0),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "sequence",
        [helper.make_tensor_sequence_value_info("s", 1, ["N", 3])],
        [helper.make_tensor_value_info("y", 1, ["M", 40])],
        [numpy_helper.from_array(np.ones((3, 40), np.float32), "b")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(UsageError, match="input 's' has a type that no array can feed"):
        ranked(proto)
