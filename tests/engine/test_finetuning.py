"""Fine-tuning: recovers a cut, keeps zeros, knows its teacher, and goes on where it was interrupted."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import helper
from pruning_models import conv_net, mlp, model_of, task_for

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.encodings.scaled import IntGrid
from onnxcompress.encodings.sparse import Pruning
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.finetuning import LAST_LR, Job, _Run
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.engine.training import lengths
from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.retreat import SLOWER
from onnxcompress.engine.training.trainer import Trainer
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
    assert {r.why.split(":")[0] for r in plan.refusals if r.where == "fc.w"} == {"has nothing to learn"}


def test_labels_are_learnt():
    rng = np.random.default_rng(1)
    model = mlp(rng.normal(size=(32, 6)) * 0.3, rng.normal(size=(3, 32)) * 0.3)
    task = task_for((6,), 3, labelled=True, count=600, label=lambda x: int(np.argmax(x[:3])))
    plan = Finetune(epochs=8, batch_size=16, lr=1e-2, teacher=0.0).plan(model, task, Resources())
    assert plan.training.metric == "top1"
    assert plan.training.labelled
    assert plan.training.points[0].compressed_metric < 0.6
    assert max(p.compressed_metric for p in plan.training.points) > 0.85


def test_encoded_weights_keep_their_form_and_what_they_are_made_of_is_trained():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    pruned = Pruning(0.3).project([model.array("c2.w")])[0]
    book = AdaptiveCodebook(4, pin_zero=True).project([model.array("c1.w")])[0]
    packed = model.with_encodings({"c2.w": pruned, "c1.w": book}, "test")
    plan = Finetune(epochs=2, batch_size=16, lr=1e-2).plan(packed, task, Resources(teacher=model))
    assert plan.weights.keys() == {"c1.w", "c2.w"}
    assert plan.weights["c2.w"].kind == "sparse"
    assert not np.array_equal(plan.weights["c2.w"].decode(), pruned.decode())
    assert not plan.weights["c2.w"].decode()[~pruned.mask()].any()
    assert np.array_equal(plan.weights["c1.w"].codes, book.codes)
    assert not np.array_equal(plan.weights["c1.w"].entries, book.entries)
    assert np.array_equal(plan.weights["c1.w"].entries == 0, book.entries == 0)
    assert "c1.w" not in plan.values
    assert not any(r.where == "c1.w" for r in plan.refusals)
    assert {"c1.b", "bn.g"} <= set(plan.values)
    loss = [point.compressed_loss for point in plan.training.points]
    assert min(loss) < 0.9 * loss[0]


def test_forms_without_numbers_stay_as_they_are_and_are_named():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=100)
    packed = model.with_encodings({"c2.w": Frozen(model.array("c2.w"))}, "test")
    plan = Finetune(epochs=1, batch_size=16, lr=1e-2).plan(packed, task, Resources(teacher=model))
    assert "c2.w" not in {*plan.weights, *plan.values}
    assert [r.why for r in plan.refusals if r.where == "c2.w"] == ["stays as it is stored, as frozen"]


class Frozen(Dense):
    kind = "frozen"

    def numbers(self):
        return ()


PROJECTIONS = {
    "one codebook": AdaptiveCodebook(3),
    "with a zero": AdaptiveCodebook(4, pin_zero=True),
    "by channel": AdaptiveCodebook(2, granularity="channel", axis=0),
    "by group": AdaptiveCodebook(2, granularity="group", axis=1, group_size=4),
    "scales": IntGrid(entries=4, granularity="channel", axis=0),
    "sparse": Pruning(0.4),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_trained_numbers_are_those_of_least_squares(name):
    """y = x Wᵀ + b with codes fixed is linear in entries and b: the best ones have a closed form."""
    rng = np.random.default_rng(4)
    weight = rng.normal(size=(6, 10)).astype(np.float32)
    x = rng.normal(size=(400, 10)).astype(np.float32)
    y = x @ (weight + 0.3 * rng.normal(size=(6, 10))).T + 0.2 + 0.1 * rng.normal(size=(400, 6))
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", transB=1)]
    model = model_of(nodes, {"w": weight, "b": np.zeros(6)}, (10,), 6)
    encoding = PROJECTIONS[name].project([weight])[0]
    (numbers,) = encoding.numbers()
    columns = []
    for k in range(len(numbers.values)):
        one = (numbers.places == k) * (1.0 if numbers.factors is None else numbers.factors)
        columns.append((x @ one.T.astype(np.float64)).ravel())
    columns += [np.broadcast_to(np.eye(6)[k], (400, 6)).ravel() for k in range(6)]
    wanted = np.linalg.lstsq(np.stack(columns, axis=1), y.ravel(), rcond=None)[0]

    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 10))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 6))
    rows = [{"x": a[None], "labels": b[None]} for a, b in zip(x, y.astype(np.float32), strict=True)]
    task = make_task(
        open_data(rows, [info], outputs=[out], labels="labels"), loss="mse", metric="mse", seed=0
    )
    whole = np.arange(400)
    task = replace(task, train=whole, validation=whole)
    packed = model.with_encodings({"w": encoding}, "test")
    method = Finetune(epochs=150, batch_size=400, lr=0.02, teacher=0.0, augment=False)
    plan = method.plan(packed, task, Resources())
    found = plan.weights["w"]
    assert type(found) is type(encoding)
    assert found.stored_bits() == encoding.stored_bits()
    best = np.append(wanted[: len(numbers.values)], 0)[numbers.places]
    best = best if numbers.factors is None else best * numbers.factors
    assert np.allclose(found.decode(), best, atol=5e-3)
    assert np.array_equal(found.decode() == 0, encoding.decode() == 0)
    assert np.allclose(plan.values["b"].decode(), wanted[len(numbers.values) :], atol=5e-3)


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
    books = {
        "c1.w": AdaptiveCodebook(4).project([small.array("c1.w")])[0],
        "c2.w": Pruning(0.5).project([small.array("c2.w")])[0],
    }
    small = small.with_encodings(books, "packed")
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
    assert whole.weights.keys() == again.weights.keys() == {"c1.w", "c2.w"}
    assert whole.values.keys() == again.values.keys()
    resumed = {**again.values, **again.weights}
    for name, encoding in {**whole.values, **whole.weights}.items():
        assert np.array_equal(encoding.decode(), resumed[name].decode()), name
    other = Finetune(epochs=5, batch_size=16, lr=1e-3)
    with pytest.raises(UsageError, match="other options"):
        other.plan(small, task, replace(kept, resume=True))


def test_a_time_limit_ends_training_with_the_best_so_far():
    model, task = conv_net(), task_for((3, 8, 8), 5, count=200)
    plan = Finetune(epochs=1000, lr=1e-3).plan(half(model), task, Resources(teacher=model, max_time_s=2.0))
    assert plan.training.stopped.startswith("time")


def test_what_is_told_and_taken_up_again_are_the_passes_that_were_made(tmp_path, monkeypatch):
    """Of a round of five passes there is time for two and a half, the first time."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=60)
    made, run = [], Trainer.run

    def short(self, part, **rest):
        asked, part = part, part if made else 2.5
        made.append(part)
        return replace(run(self, part, **rest), stopped="done" if part == asked else "time")

    monkeypatch.setattr(Trainer, "run", short)
    method = Finetune(epochs=100, lr=1e-4, batch_size=8)
    kept = Resources(teacher=model, checkpoint_dir=tmp_path)
    monkeypatch.setattr(lengths, "ROUND_STEPS", 5 * 6)
    first = method.plan(half(model), task, kept).training
    assert [p.step for p in first.points] == [0, 3]
    assert first.epochs == pytest.approx(2.5, abs=0.1)
    again = method.plan(half(model), task, replace(kept, resume=True)).training
    assert [p.step for p in again.points][:4] == [0, 3, 8, 13]
    assert again.epochs == pytest.approx(sum(made), abs=0.1) == pytest.approx(99.5, abs=0.1)


def test_resumed_it_keeps_its_length(tmp_path, monkeypatch):
    """Nobody asked for one, and where costs are counted at other sizes another would do."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=60)
    monkeypatch.setattr(lengths, "MOST_STEPS", 40)
    kept = Resources(teacher=model, input_shapes=SHAPES, checkpoint_dir=tmp_path)
    first = Finetune(lr=1e-4).plan(half(model), task, kept).training
    assert first.epochs == 40
    monkeypatch.setattr(lengths, "MOST_STEPS", 80)
    again = Finetune(lr=1e-4).plan(half(model), task, replace(kept, resume=True)).training
    assert (again.epochs, again.points) == (40, first.points)


def test_a_time_limit_that_is_not_reached_changes_nothing():
    """What the clock says differs from run to run."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=100)
    small, free = half(model), Resources(teacher=model)
    method = Finetune(epochs=2, batch_size=16, lr=3e-3)
    wanted, found = (
        method.plan(small, task, replace(free, max_time_s=limit)).values for limit in (None, 1e4)
    )
    assert wanted.keys() == found.keys()
    for name, encoding in wanted.items():
        assert np.array_equal(encoding.decode(), found[name].decode()), name


@pytest.mark.parametrize("limit", [5, 20])
def test_the_learning_rate_falls_to_its_end_in_the_time_that_there_is(limit, monkeypatch):
    """A pass takes a second. There is time for half of them; or for all, and it falls with the passes."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=60)
    run = _Run(Job(model, list(model.weights), {}, task, Resources(max_time_s=9e9), epochs=10, lr=1.0))
    monkeypatch.setattr(Trainer, "seconds_left", property(lambda self: float(limit - len(rates))))
    monkeypatch.setattr(run.trainer, "evaluate", lambda: Evaluation(1.0, None, 60))
    rates: list[float] = []

    def epoch(part, *, lr, schedule, **_):
        rates.append(lr * schedule(0.0))
        return SimpleNamespace(loss=0.0, stopped="time" if len(rates) == limit else "done", epochs=part)

    monkeypatch.setattr(run.trainer, "run", epoch)
    found = run.run()
    made = min(limit, 10)
    assert rates == pytest.approx([LAST_LR ** (k / min(limit, 9)) for k in range(made)])
    assert found.training.epochs == made
    assert any("enough for 5 of 10 passes" in warning for warning in found.warnings) == (limit == 5)


@pytest.mark.parametrize(("work", "least"), [(1e4, 5.0), (1e5, 34.0), (1e9, 60.0)])
def test_few_examples_are_passed_over_more_often_as_long_as_that_is_cheap(work, least, monkeypatch):
    """Of 48 examples, which are one step, one costs 54 multiply-accumulates."""
    rng = np.random.default_rng(0)
    model, task = mlp(rng.normal(size=(6, 4)), rng.normal(size=(5, 6))), task_for((4,), 5, count=60)
    monkeypatch.setattr(lengths, "WORK", work)
    monkeypatch.setattr(lengths, "MOST_STEPS", 60)
    resources = Resources(input_shapes={"x": (1, 4)})
    plan = Finetune(lr=1e-3).plan(model, task, resources)
    assert plan.training.epochs == least
    assert Finetune(lr=1e-3, epochs=2).plan(model, task, resources).training.epochs == 2.0


def test_of_few_examples_it_looks_after_several_passes_and_adam_starts_anew_then(monkeypatch):
    model, task = conv_net(), task_for((3, 8, 8), 5, count=60)
    started = []
    run = Trainer.run
    monkeypatch.setattr(
        Trainer, "run", lambda self, part, **rest: started.append(part) or run(self, part, **rest)
    )
    found = Finetune(epochs=90, lr=1e-3).plan(half(model), task, Resources(teacher=model))
    assert started == [4.0] * 22 + [2.0], "20 rounds at least"
    assert [p.step for p in found.training.points] == [*range(0, 89, 4), 90]
    assert found.training.epochs == 90


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


@pytest.mark.parametrize("retreats", [True, False])
def test_where_an_epoch_does_damage_it_goes_back_and_on_more_slowly(retreats, monkeypatch):
    """Each epoch adds 1 to the weights; with the negative control no loss is damage."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=60)
    (name, *_) = model.weights
    job = Job(model, [name], {}, task, Resources(), epochs=5, lr=1.0, statistics=False)
    run = _Run(job)
    rates, began = [], []

    def epoch(part, *, lr, **_):
        rates.append(lr)
        began.append(float((run.graph.arrays()[name] - model.array(name)).mean()))
        run.graph.set_arrays({name: run.graph.arrays()[name] + 1})
        return SimpleNamespace(loss=0.0, stopped="done", epochs=part)

    losses = iter([1.0, 0.5, 1.6, float("nan"), 0.4, 0.45])
    monkeypatch.setattr(run.trainer, "run", epoch)
    monkeypatch.setattr(run.trainer, "evaluate", lambda: Evaluation(next(losses), None, 60))
    if not retreats:
        monkeypatch.setattr("onnxcompress.engine.finetuning.damaged", lambda *_: False)
    found = run.run()
    falling = [LAST_LR ** (k / 4) for k in range(5)]
    slower = [1, 1, SLOWER, SLOWER**2, SLOWER**2] if retreats else [1] * 5
    assert rates == pytest.approx([a * b for a, b in zip(falling, slower, strict=True)])
    assert began == pytest.approx([0, 1, 1, 1, 2] if retreats else [0, 1, 2, 3, 4], abs=1e-5)
    assert float((found.arrays[name] - model.array(name)).mean()) == pytest.approx(2 if retreats else 4)
