from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from onnxcompress.core.task import Task
from onnxcompress.engine.training.distillation import LabelsAndTeacher, with_teacher

RNG = np.random.default_rng(0)
SCORES, WANTED, LABELS = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4)) * 3, np.array([0, 1, 2, 3, 1])


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def task_of(labelled):
    none = np.arange(0)
    loss = "ce" if labelled else "l2"
    return Task(object(), none, none, None, labelled, loss, None, False, "nowhere", 0)


def loss(share, scores, wanted):
    function = LabelsAndTeacher("y", share, 2.0)
    tensors = ({"y": torch.from_numpy(a)} for a in (scores, wanted))
    outputs, teacher = tensors
    return float(function(outputs, torch.from_numpy(LABELS), teacher))


def expected(share, scores, wanted):
    hard = -np.log(softmax(scores))[np.arange(5), LABELS].mean()
    p, q = softmax(wanted / 2), np.log(softmax(scores / 2))
    soft = (p * (np.log(p) - q)).sum(axis=1).mean()
    return (1 - share) * hard + share * 4 * soft


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_equals_its_formula(share):
    assert loss(share, SCORES, WANTED) == pytest.approx(expected(share, SCORES, WANTED), rel=1e-9)


def test_probabilities_give_what_their_scores_give():
    probabilities = [softmax(a) for a in (SCORES, WANTED)]
    assert loss(0.5, *probabilities) == pytest.approx(loss(0.5, SCORES, WANTED), rel=1e-6)


def test_nothing_is_left_to_learn_from_oneself():
    assert loss(1.0, WANTED, WANTED) == pytest.approx(0.0, abs=1e-9)


def test_classes_along_another_axis():
    scores, wanted = (np.stack([a, a[::-1]], axis=-1) for a in (SCORES, WANTED))
    labels = np.stack([LABELS, LABELS[::-1]], axis=-1)
    function = LabelsAndTeacher(None, 0.5, 2.0)
    outputs, teacher = {"y": torch.from_numpy(scores)}, {"y": torch.from_numpy(wanted)}
    found = float(function(outputs, torch.from_numpy(labels), teacher))
    assert found == pytest.approx(loss(0.5, SCORES, WANTED), rel=1e-6)


def test_only_tasks_with_class_labels_get_a_second_teacher():
    labelled, unlabelled = task_of(True), task_of(False)
    assert isinstance(with_teacher(labelled, 0.5).loss, LabelsAndTeacher)
    assert with_teacher(labelled, 0.0) is labelled
    assert with_teacher(unlabelled, 0.5) is unlabelled
    chosen = replace(labelled, loss="kl")
    assert with_teacher(chosen, 0.5) is chosen


def test_what_a_decision_selects_is_left_out_with_a_second_teacher_too():
    task = replace(task_of(True), decided=frozenset({"boxes"}))
    assert with_teacher(task, 0.5).left_out == task.left_out == {"boxes"}
    assert not replace(task, loss=lambda outputs, labels, teacher: 0.0).left_out
