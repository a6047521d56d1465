"""What a graph shows to be scores of classes, and what only looks so; and that training tells a guess."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper
from small_models import model_of, perceptron
from test_training import blobs, task_of, trainer_of

from onnxcompress.engine.class_scores import shown


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
        ("Sigmoid", {}, ("y",)),
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
    assert (trainer.loss_name == "kl+0.1*l2") == ("loss" not in options)
    assert trainer_of(model, task).assumed_scores == ()  # held to the outputs as they are


def test_labels_leave_nothing_to_guess():
    task = task_of(perceptron(), blobs(60))
    assert task.labelled
    assert trainer_of(perceptron(), task, classes=True).assumed_scores == ()
    assert trainer_of(perceptron(), replace(task, metric=None), classes=True).assumed_scores == ()
