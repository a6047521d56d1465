"""Fine-tuning: recovers a cut, keeps zeros, knows its teacher, and goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pruning_models import conv_net, mlp, task_for

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.methods.finetune import Finetune
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.surgery import cut

SHAPES = {"x": (1, 3, 8, 8)}
RNG = np.random.default_rng(0)


def half(model, shapes=SHAPES):
    found = Magnitude(keep=0.5).plan(model, None, Resources(input_shapes=shapes))
    return cut(analyse(model, shapes), found.keep).model


def after(model, plan):
    return model.with_encodings({**plan.values, **plan.weights}, "finetune")


def error(model, teacher, task, which="validation") -> float:
    x = task.samples.inputs(getattr(task, which))
    wanted, found = (TorchGraph(m).run(x)["y"] for m in (teacher, model))
    return float(np.square(wanted - found).mean() / wanted.var())


def test_a_cut_is_recovered_towards_the_original_without_labels():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=600)
    small = half(model)
    plan = Finetune(epochs=6, batch_size=16, lr=3e-3).plan(small, task, Resources(teacher=model))
    assert error(after(small, plan), model, task) < 0.5 * error(small, model, task)
    points = plan.training.points
    assert [p.step for p in points] == list(range(7))
    assert min(p.compressed_loss for p in points) < points[0].compressed_loss
    assert plan.training.labelled is False


def test_without_a_teacher_the_model_itself_is_the_goal():
    """Negative control: a cut model that is its own teacher has nothing to learn."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    small = half(model)
    plan = Finetune(epochs=2, batch_size=16, lr=1e-3, statistics=False).plan(small, task, Resources())
    assert plan.training.points[0].compressed_loss < 1e-10
    assert not plan.values


def test_labels_are_learnt():
    rng = np.random.default_rng(1)
    model = mlp(rng.normal(size=(32, 6)) * 0.3, rng.normal(size=(3, 32)) * 0.3)
    task = task_for((6,), 3, labelled=True, count=600, label=lambda x: int(np.argmax(x[:3])))
    plan = Finetune(epochs=8, batch_size=16, lr=1e-2, teacher=0.0).plan(model, task, Resources())
    assert plan.training.metric == "top1"
    assert plan.training.labelled
    assert plan.training.points[0].compressed_metric < 0.6
    assert max(p.compressed_metric for p in plan.training.points) > 0.85


def test_pruned_weights_stay_zero_and_encoded_ones_as_they_are():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    pruned = Pruning(0.3).project([model.array("c2.w")])[0]
    book = AdaptiveCodebook(4).project([model.array("c1.w")])[0]
    packed = model.with_encodings({"c2.w": pruned, "c1.w": book}, "test")
    plan = Finetune(epochs=2, batch_size=16, lr=1e-2).plan(packed, task, Resources(teacher=model))
    assert plan.weights.keys() == {"c2.w"}
    assert plan.weights["c2.w"].kind == "sparse"
    assert not np.array_equal(plan.weights["c2.w"].decode(), pruned.decode())
    assert not plan.weights["c2.w"].decode()[~pruned.mask()].any()
    assert "c1.w" not in plan.values
    assert any(r.where == "c1.w" and "codebook" in r.why for r in plan.refusals)
    assert {"c1.b", "bn.g"} <= set(plan.values)


def test_statistics_follow_the_cut():
    """Where the statistics are wrong, estimating them anew repairs what training alone cannot in no time."""
    task = task_for((3, 8, 8), 5, count=400)
    padded = np.pad(task.samples.inputs(task.train)["x"], [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    weight, bias = (conv_net().array(n) for n in ("c1.w", "c1.b"))
    maps = np.einsum("nchwij,ocij->nohw", windows, weight) + bias[:, None, None]
    mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
    right = conv_net(**{"bn.m": mean, "bn.v": variance})
    wrong = conv_net(**{"bn.m": mean + 1, "bn.v": variance * 4})
    options = {"epochs": 0.1, "lr": 1e-9, "batch_size": 32}
    still = Finetune(statistics=False, **options).plan(wrong, task, Resources(teacher=right))
    moved = Finetune(**options).plan(wrong, task, Resources(teacher=right))
    before = error(wrong, right, task)
    assert error(after(wrong, still), right, task) > 0.9 * before
    assert error(after(wrong, moved), right, task) < 0.1 * before
    assert np.allclose(moved.values["bn.m"].decode(), mean, atol=0.1)
    assert np.allclose(moved.values["bn.v"].decode(), variance, rtol=0.2)


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_too(tmp_path, monkeypatch):
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    small = half(model)
    method = Finetune(epochs=4, batch_size=16, lr=1e-3)
    whole = method.plan(small, task, Resources(teacher=model))
    kept = Resources(teacher=model, checkpoint_dir=tmp_path)
    told = []

    def interrupt(fraction, words, point):
        told.append(point)
        if point is not None and point.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.plan(small, task, replace(kept, progress=interrupt))
    again = method.plan(small, task, replace(kept, resume=True))
    assert whole.values.keys() == again.values.keys()
    for name, encoding in whole.values.items():
        assert np.array_equal(encoding.decode(), again.values[name].decode()), name
    other = Finetune(epochs=5, batch_size=16, lr=1e-3)
    with pytest.raises(UsageError, match="other options"):
        other.plan(small, task, replace(kept, resume=True))


def test_a_time_limit_ends_training_with_the_best_so_far():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    plan = Finetune(epochs=1000, lr=1e-3).plan(half(model), task, Resources(teacher=model, max_time_s=2.0))
    assert plan.training.stopped.startswith("time")


def test_only_what_is_included_is_trained():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=100)
    plan = Finetune(epochs=1, lr=1e-2, include=("fc",)).plan(half(model), task, Resources(teacher=model))
    assert "fc.w" in plan.values
    assert "c2.w" not in plan.values
    assert any(r.where == "c2.w" and "--include" in r.why for r in plan.refusals)


@pytest.mark.parametrize("options", [{"epochs": 0}, {"lr": -1.0}, {"batch_size": 0}, {"teacher": 2.0}])
def test_options_out_of_range(options):
    with pytest.raises(UsageError):
        Finetune(**options)
