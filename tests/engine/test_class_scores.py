"""What a graph shows to be scores of classes, and what only looks so; and that training tells a guess."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from small_models import model_of, perceptron
from test_training import blobs, task_of, trainer_of

from onnxcompress.core.resources import Resources
from onnxcompress.engine.class_scores import shown, unranked
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.methods.int8 import Int8


def graph(made=(), reads=(), shape=("N", 3)):
    """Return x → Gemm → ``made`` → y, which ``reads`` read; an operator is its type, or with its axis."""
    nodes, last = [], "h0"
    nodes.append(helper.make_node("Gemm", ["x", "W"], ["h0"]))
    for place, (kind, *axis) in enumerate(made, start=1):
        nodes.append(helper.make_node(kind, [last], [f"h{place}"], **({"axis": axis[0]} if axis else {})))
        last = f"h{place}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    last = "y"
    for place, (kind, *axis) in enumerate(reads):
        inputs = {"TopK": [last, "k"], "Greater": [last, "half"]}.get(kind, [last])
        outputs = [f"r{place}", f"i{place}"] if kind == "TopK" else [f"r{place}"]
        given = {"axis": axis[0]} if axis else {}
        nodes.append(helper.make_node(kind, inputs, outputs, **given))
        last = f"r{place}"
    arrays = {"W": np.eye(3, dtype=np.float32), "k": np.array([1]), "half": np.float32([0.5])}
    used = {name for node in nodes for name in node.input}
    return model_of(
        nodes, {"x": ["N", 3]}, {"y": list(shape)}, {n: a for n, a in arrays.items() if n in used}
    )


@pytest.mark.parametrize(
    ("made", "reads", "scores"),
    [
        ([("Softmax", 1)], [], True),
        ([("LogSoftmax", -1)], [], True),
        ([("LogSoftmax", 1), ("Identity",)], [], True),
        ([], [("Softmax", 1)], True),
        ([], [("Identity",), ("Flatten",), ("Softmax", 1)], True),
        ([], [("ArgMax", 1)], True),
        ([], [("TopK", 1)], True),
        # Nothing tells, or each number is judged on its own, or examples are compared.
        ([], [], False),
        ([("Sigmoid",)], [], False),
        ([("Softmax", 1), ("Relu",)], [], False),
        ([("Softmax", 0)], [], False),
        ([], [("Softmax", 0)], False),
        ([], [("Softmax", -2)], False),
        ([], [("ArgMax", 0)], False),
        ([], [("ArgMax",)], False),
        ([], [("Greater",)], False),
        ([], [("Sigmoid",), ("ArgMax", 1)], False),
    ],
)
def test_what_the_graph_shows(made, reads, scores):
    assert shown(graph(made, reads), ["y"]) == (frozenset({"y"}) if scores else frozenset())
    assert not shown(graph(made, reads), ["another"])


@pytest.mark.parametrize(
    ("end", "options", "guessed"),
    [
        ("", {}, ("y",)),
        ("Sigmoid", {}, ()),
        ("Softmax", {}, ()),
        ("LogSoftmax", {}, ()),
        ("", {"loss": "l2"}, ()),
        ("", {"loss": "kl"}, ()),
        ("", {"metric": "agreement"}, ()),
    ],
)
def test_a_guess_is_told_where_nothing_but_the_shape_says_so(end, options, guessed):
    model = perceptron(end=end)
    task = task_of(model, {"x": blobs(60)["x"]}, **options)
    trainer = trainer_of(model, task, classes=True)
    assert trainer.assumed_scores == guessed
    assert (trainer.loss_name == "kl+0.1*l2") == ("loss" not in options and end != "Sigmoid")
    assert trainer_of(model, task).assumed_scores == ()  # held to the outputs as they are


def test_labels_leave_nothing_to_guess():
    task = task_of(perceptron(), blobs(60))
    assert task.labelled
    assert trainer_of(perceptron(), task, classes=True).assumed_scores == ()
    assert trainer_of(perceptron(), replace(task, metric=None), classes=True).assumed_scores == ()


def unit_length(measure="ReduceL2", of="h0"):
    """Return x → Gemm → h0, divided by what ``measure`` makes of a value, kept from zero."""
    nodes = [
        helper.make_node("Gemm", ["x", "W"], ["h0"]),
        helper.make_node(measure, [of, "axes"], ["l"], keepdims=1)
        if measure == "ReduceSum"
        else helper.make_node(measure, [of], ["l"], axes=[1], keepdims=1),
        *([helper.make_node("Sqrt", ["l"], ["r"])] if measure == "ReduceSumSquare" else []),
        helper.make_node("Clip", ["r" if measure == "ReduceSumSquare" else "l", "least"], ["c"]),
        helper.make_node("Shape", ["h0"], ["s"]),
        helper.make_node("Expand", ["c", "s"], ["e"]),
        helper.make_node("Div", ["h0", "e"], ["y"]),
    ]
    arrays = {"W": np.eye(3, dtype=np.float32), "least": np.float32(1e-12)}
    arrays |= {"axes": np.array([1])} if measure == "ReduceSum" else {}
    return model_of(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, arrays)


def of_parts(*kinds):
    """Return one column of x a kind, that operator's, joined to one output."""
    nodes, parts = [], []
    for place, kind in enumerate(kinds):
        nodes.append(helper.make_node("Gemm", ["x", f"w{place}"], [f"g{place}"]))
        nodes.append(helper.make_node(kind, [f"g{place}"], [f"p{place}"]))
        parts.append(f"p{place}")
    nodes.append(helper.make_node("Concat", parts, ["y"], axis=1))
    arrays = {f"w{place}": np.ones((3, 1), np.float32) for place in range(len(kinds))}
    return model_of(nodes, {"x": ["N", 3]}, {"y": ["N", len(kinds)]}, arrays)


@pytest.mark.parametrize(
    ("model", "other"),
    [
        (graph([("Sigmoid",)]), True),
        (graph([("HardSigmoid",), ("Flatten",)]), True),
        (of_parts("Sigmoid", "Sigmoid"), True),
        (graph([("LpNormalization", 1)]), True),
        (unit_length(), True),
        (unit_length("ReduceSumSquare"), True),
        # Nothing tells, or something speaks for classes.
        (graph(), False),
        (graph([("Relu",)]), False),
        (graph([("Sigmoid",), ("Softmax", 1)]), False),
        (graph([("Sigmoid",)], [("ArgMax", 1)]), False),
        (graph([("LpNormalization", 1)], [("TopK", 1)]), False),
        (of_parts("Sigmoid", "Neg"), False),
        (unit_length("ReduceSum"), False),
        (unit_length(of="x"), False),
    ],
)
def test_what_the_graph_shows_to_be_no_class_scores(model, other):
    assert ("y" in unranked(model, None)) is other


ROWS = {"x": blobs(60)["x"], "y": np.tile(np.float32([[1, 1, 0], [0, 1, 1], [0, 0, 0]]), (20, 1))}
NUMBERS = {"x": ROWS["x"], "y": ROWS["y"] - 0.25}
BARE = {"x": ROWS["x"]}


@pytest.mark.parametrize(
    ("end", "data", "options", "other"),
    [
        ("", ROWS, {}, True),
        ("", NUMBERS, {}, True),
        ("Sigmoid", ROWS, {}, True),
        ("", blobs(60), {}, False),
        ("Sigmoid", blobs(60), {}, False),  # classes, says who labelled them
        ("Softmax", ROWS, {}, False),  # probabilities, says the graph
        ("", BARE, {}, False),
        ("Sigmoid", BARE, {}, True),
        ("", BARE, {"loss": "l2"}, True),
        ("", BARE, {"metric": "relative_l2"}, True),
        ("Softmax", BARE, {"loss": "l2"}, False),
        ("Sigmoid", BARE, {"loss": "kl"}, False),
        ("Sigmoid", BARE, {"metric": "agreement"}, False),
        ("", blobs(60), {"loss": "l2"}, False),
    ],
)
def test_labels_and_what_is_asked_for_tell_what_a_row_is(end, data, options, other):
    model = perceptron(end=end)
    assert ("y" in unranked(model, task_of(model, data, **options))) is other


@pytest.mark.parametrize(("end", "holds"), [("Sigmoid", True), ("", False)])
def test_eight_bits_are_not_held_to_an_agreement_that_says_nothing(end, holds):
    """Another largest number everywhere: of class scores alone that is a difference."""
    model = perceptron(end=end)
    graph = TorchGraph(model)
    limits = Int8()._limits(model, task_of(model, BARE), Resources(limits={"min_agreement": 0.5}))
    assert limits.hold(lambda feeds: {"y": -graph.run(feeds)["y"]}) is holds
    assert limits.hold(graph.run)
