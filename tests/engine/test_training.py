"""Training against closed forms, against torch, and against itself interrupted."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from onnx import helper
from small_models import blobs, linear, model_of, perceptron, task_of

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.trainer import QuadraticPenalty, Trainer

RNG = np.random.default_rng(0)


def regression(count=120, features=4, outputs=2, noise=0.1):
    x = RNG.standard_normal((count, features)).astype(np.float32)
    labels = x @ RNG.standard_normal((features, outputs)) + 1 + noise * RNG.standard_normal((count, outputs))
    return {"x": x, "labels": labels.astype(np.float32)}


def trainer_of(model, task, **options):
    resources = options.pop("resources", Resources())
    return Trainer(TorchGraph(model), task, resources, **options)


def test_regression_reaches_the_least_squares_solution():
    data = regression()
    model = linear(np.zeros((4, 2)), np.zeros(2))
    task = task_of(model, data)
    assert (task.loss, task.metric) == ("mse", "mse")
    trainer = trainer_of(model, task, batch_size=len(task.train))
    trainer.run(400, lr=0.3)
    x = np.hstack([data["x"], np.ones((len(data["x"]), 1))])[task.train].astype(np.float64)
    solution, *_ = np.linalg.lstsq(x, data["labels"][task.train], rcond=None)
    np.testing.assert_allclose(trainer.graph.arrays(["W"])["W"], solution[:-1], atol=2e-6)
    np.testing.assert_allclose(trainer.graph.arrays(["b"])["b"], solution[-1], atol=2e-6)
    residual = np.mean((x @ solution - data["labels"][task.train]) ** 2)
    assert trainer.evaluate("train").loss == pytest.approx(residual, rel=1e-5)


def test_a_penalty_moves_the_solution_as_the_closed_form_says():
    data = regression()
    model, mu = linear(np.zeros((4, 2)), np.zeros(2)), 0.7
    task = task_of(model, data)
    trainer = trainer_of(model, task, batch_size=len(task.train))
    graph = trainer.graph
    names = ["W", "b"]
    targets = [torch.full_like(graph.weight(n), 0.5) for n in names]
    trainer.run(300, lr=0.2, penalty=QuadraticPenalty([graph.weight(n) for n in names], targets, mu))
    x = np.hstack([data["x"], np.ones((len(data["x"]), 1))])[task.train].astype(np.float64)
    y, n, outputs = data["labels"][task.train], len(task.train), 2
    # mean square plus μ/2 ‖w − t‖²: (2/(n·outputs) XᵀX + μ) w = 2/(n·outputs) Xᵀy + μ t
    scale = 2 / (n * outputs)
    expected = np.linalg.solve(scale * x.T @ x + mu * np.eye(5), scale * x.T @ y + mu * 0.5)
    np.testing.assert_allclose(graph.arrays(["W"])["W"], expected[:-1], atol=2e-6)
    np.testing.assert_allclose(graph.arrays(["b"])["b"], expected[-1], atol=2e-6)


@pytest.mark.parametrize("mu", [0.0, 1e-3, 2.5])
def test_the_penalty_knows_its_own_gradient(mu):
    shapes = [(3, 4), (7,), (2, 2, 2)]
    weights = [torch.nn.Parameter(torch.from_numpy(RNG.standard_normal(s))) for s in shapes]
    targets = [torch.from_numpy(RNG.standard_normal(s)) for s in shapes]
    penalty = QuadraticPenalty(weights, targets, mu)
    value = mu / 2 * sum(((w - t) ** 2).sum() for w, t in zip(weights, targets, strict=True))
    value.backward()
    expected = [w.grad.clone() for w in weights]
    assert float(penalty.value()) == pytest.approx(float(value))
    weights[0].grad, weights[1].grad, weights[2].grad = None, torch.ones(7, dtype=torch.float64), None
    penalty.add_gradient()
    for weight, gradient, added in zip(weights, expected, (0, 1, 0), strict=True):
        found = torch.zeros_like(gradient) if weight.grad is None else weight.grad
        torch.testing.assert_close(found, gradient + added, rtol=1e-12, atol=1e-12)


def test_a_penalty_given_as_a_function_is_the_same_penalty():
    data, model = blobs(), perceptron()
    task = task_of(model, data)
    results = []
    for own in (True, False):
        trainer = trainer_of(model, task, batch_size=32)
        weight = trainer.graph.weight("W1")
        target = torch.zeros_like(weight)
        quick = QuadraticPenalty([weight], [target], 0.3)
        slow = lambda w=weight, t=target: 0.15 * ((w - t) ** 2).sum()  # noqa: E731
        trainer.run(2, lr=0.1, penalty=quick if own else slow)
        results.append(trainer.graph.arrays(["W1"])["W1"])
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)


def test_sgd_and_adam_take_the_steps_torch_takes():
    data, model = blobs(60), perceptron()
    task = task_of(model, data, val=10)
    x = torch.from_numpy(data["x"][task.train])
    labels = torch.from_numpy(data["labels"][task.train])
    for name in ("sgd", "adam"):
        trainer = trainer_of(model, task, batch_size=len(task.train))
        w = {n: torch.nn.Parameter(torch.from_numpy(a)) for n, a in TorchGraph(model).arrays().items()}
        make = torch.optim.Adam if name == "adam" else torch.optim.SGD
        extra = {} if name == "adam" else {"momentum": 0.9, "nesterov": True}
        optimizer = make(w.values(), lr=0.05, **extra)
        for step in range(6):
            optimizer.param_groups[0]["lr"] = 0.05 * 0.9**step
            scores = torch.tanh(x @ w["W1"] + w["b1"]) @ w["W2"] + w["b2"]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(scores, labels).backward()
            optimizer.step()
        trainer.run(6, lr=0.05, optimizer=name, schedule=lambda part: 0.9 ** (6 * part))
        for key, value in w.items():
            np.testing.assert_allclose(trainer.graph.arrays([key])[key], value.detach().numpy(), atol=1e-6)


def test_labels_are_learned():
    data, model = blobs(300), perceptron()
    task = task_of(model, data, val=60)
    assert (task.loss, task.metric, len(task.validation)) == ("ce", "top1", 60)
    trainer = trainer_of(model, task, batch_size=32)
    before = trainer.evaluate()
    outcome = trainer.run(20, lr=0.02)
    assert outcome.stopped == "done"
    after = trainer.evaluate()
    assert after.metric > 0.85 > before.metric
    assert after.loss < before.loss


def test_without_labels_the_original_is_the_teacher():
    data, model = blobs(300), perceptron()
    task = task_of(model, {"x": data["x"]})
    assert (task.labelled, task.loss) == (False, "l2")
    trainer = trainer_of(model, task, batch_size=32)
    assert trainer.metric_name == "agreement"
    assert trainer.evaluate().loss == pytest.approx(0, abs=1e-10)
    assert trainer.evaluate().metric == 1.0
    original = trainer.graph.arrays()
    rng = np.random.default_rng(5)
    trainer.graph.set_arrays({n: a + 0.3 * rng.standard_normal(a.shape) for n, a in original.items()})
    damaged = trainer.evaluate()
    trainer.run(60, lr=0.2)
    healed = trainer.evaluate()
    assert damaged.loss > 0.05
    assert healed.loss < damaged.loss / 50
    assert healed.metric > damaged.metric
    assert trainer.evaluate(arrays=original).loss == pytest.approx(0, abs=1e-10)
    assert trainer.evaluate().loss == healed.loss


@pytest.mark.parametrize("loss", ["kl", "ce+kl", "0.3*ce+0.7*l2"])
def test_teacher_and_labels_combine(loss):
    model = perceptron()
    task = task_of(model, blobs(200), loss=loss)
    trainer = trainer_of(model, task, batch_size=32)
    before = trainer.evaluate().loss
    trainer.graph.set_arrays({"W2": trainer.graph.arrays(["W2"])["W2"] * 0.2})
    damaged = trainer.evaluate().loss
    trainer.run(20, lr=0.1)
    assert trainer.evaluate().loss < damaged
    assert before < damaged or "ce" in loss


def test_probabilities_that_only_values_tell_of_are_said():
    arrays = {"W": np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["s"]),
        helper.make_node("Exp", ["s"], ["e"]),
        helper.make_node("ReduceSum", ["e", "last"], ["t"], keepdims=1),
        helper.make_node("Div", ["e", "t"], ["y"]),
    ]
    last = {"last": np.array([1], np.int64)}
    model = model_of(nodes, {"x": ["N", 6]}, {"y": ["N", 3]}, {**arrays, **last})
    trainer = trainer_of(model, task_of(model, blobs(200)), batch_size=32)
    assert any("holds probabilities" in w for w in trainer.warnings)


def test_probabilities_of_softmax_are_recognised():
    model, data = perceptron(end="Softmax"), blobs(200)
    trainer = trainer_of(model, task_of(model, data), batch_size=32)
    assert not trainer.warnings, "the graph shows them: softmax is known to make probabilities"
    logits = trainer_of(perceptron(), task_of(perceptron(), data), batch_size=32)
    assert not logits.warnings
    assert trainer.evaluate().loss == pytest.approx(logits.evaluate().loss, rel=1e-5)
    trainer.run(2, lr=0.1)
    logits.run(2, lr=0.1)
    np.testing.assert_allclose(
        trainer.graph.arrays(["W1"])["W1"], logits.graph.arrays(["W1"])["W1"], atol=1e-5
    )


def test_a_fixed_batch_trains_as_a_free_one():
    data = blobs(90)
    results = []
    for batch in ("N", 1, 4):
        model = perceptron(batch=batch)
        trainer = trainer_of(model, task_of(model, data), batch_size=30)
        trainer.run(2, lr=0.1)
        results.append((trainer.graph.arrays(["W1"])["W1"], trainer.evaluate().loss))
    for weights, loss in results[1:]:
        np.testing.assert_allclose(weights, results[0][0], atol=1e-6)
        assert loss == pytest.approx(results[0][1], rel=1e-5)


def test_a_model_that_mixes_its_batch_is_run_example_by_example():
    """y = x W minus the mean over the batch: two examples at once are not two examples."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["s"]),
        helper.make_node("ReduceSum", ["s", "axes"], ["m"], keepdims=1),
        helper.make_node("Sum", ["s", "m"], ["y"]),
    ]
    weight = RNG.standard_normal((3, 2)).astype(np.float32)
    model = model_of(nodes, {"x": ["N", 3]}, {"y": ["N", 2]}, {"W": weight, "axes": np.array([0])})
    x = RNG.standard_normal((40, 3)).astype(np.float32)
    labels = (2 * x @ weight).astype(np.float32)  # with one example, its sum is itself
    trainer = trainer_of(model, task_of(model, {"x": x, "labels": labels}), batch_size=10)
    assert trainer.evaluate("train").loss == pytest.approx(0, abs=1e-10)


def test_streaming_gives_the_same_bits_as_memory():
    data, model = blobs(150), perceptron()
    results = []
    for cache in (1 << 30, 0):
        trainer = trainer_of(model, task_of(model, {"x": data["x"]}), batch_size=20, cache_bytes=cache)
        trainer.graph.set_arrays({"W1": trainer.graph.arrays(["W1"])["W1"] * 0.5})
        trainer.run(3, lr=0.1)
        results.append(trainer.graph.arrays())
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[1][name])


def test_same_seed_same_bits_other_seed_other_bits():
    data, model = blobs(150), perceptron()

    def result(seed):
        trainer = trainer_of(model, task_of(model, data, seed=0, val=30), batch_size=16)
        trainer._task = trainer._task.__class__(**{**vars(trainer._task), "seed": seed})
        torch.rand(3)  # the state of the caller's generator must not matter
        trainer.run(2, lr=0.1)
        return trainer.graph.arrays(["W1"])["W1"]

    first = result(0)
    np.testing.assert_array_equal(first, result(0))
    assert (first != result(1)).any()


def test_training_leaves_the_callers_random_numbers_alone():
    model = perceptron()
    trainer = trainer_of(model, task_of(model, blobs(50)))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    trainer.run(1, lr=0.1)
    torch.testing.assert_close(torch.rand(4), expected, rtol=0, atol=0)


def test_only_the_parameters_named_are_trained():
    model = perceptron()
    trainer = trainer_of(model, task_of(model, blobs(50)))
    before = trainer.graph.arrays()
    trainer.run(1, lr=0.1, parameters=["b1", "W2"])
    moved = {n for n, a in trainer.graph.arrays().items() if (a != before[n]).any()}
    assert moved == {"b1", "W2"}
    assert all(trainer.graph.weight(n).requires_grad for n in trainer.graph.trainable)


def test_a_loss_that_is_no_number_takes_the_last_good_weights_and_half_the_rate():
    data = regression()
    model = linear(np.zeros((4, 2)), np.zeros(2))
    trainer = trainer_of(model, task_of(model, data), batch_size=16)
    outcome = trainer.run(60, lr=5.0, momentum=0.0)
    assert sum("not finite" in w for w in trainer.warnings) == 1
    assert outcome.stopped == "done"
    assert outcome.lr < 5.0
    assert all(np.isfinite(a).all() for a in trainer.graph.arrays().values())
    hopeless = trainer_of(model, task_of(model, data), batch_size=16)
    diverged = hopeless.run(60, lr=1e30, momentum=0.0)
    assert diverged.stopped == "diverged"
    (told,) = [w for w in hopeless.warnings if "not finite" in w]
    assert told.startswith("the loss was not finite 8 times")
    assert told.endswith("and gave up")
    np.testing.assert_array_equal(hopeless.graph.arrays(["W"])["W"], 0)


def test_the_time_limit_stops_and_progress_is_told():
    model, told = perceptron(), []
    resources = Resources(max_time_s=0.5, progress=lambda f, text, point: told.append((f, text)))
    trainer = trainer_of(model, task_of(model, blobs(400)), batch_size=4, resources=resources)
    started = time.monotonic()
    outcome = trainer.run(100000, lr=0.01)
    assert outcome.stopped == "time"
    assert trainer.out_of_time
    assert time.monotonic() - started < 3
    assert all(0 <= f <= 1 for f, _ in told)
    assert "loss" in told[-1][1]


def test_batch_normalisation_keeps_its_statistics_unless_asked():
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(3).astype(np.float32) for n in ("scale", "shift", "mean")}
    arrays["var"] = np.ones(3, np.float32)
    arrays["W"] = rng.standard_normal((3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["y"]),
    ]
    model = model_of(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, arrays)
    x = rng.standard_normal((60, 3)).astype(np.float32) + 5
    data = {"x": x, "labels": np.sin(x)}
    for bn in ("eval", "train"):
        task = task_of(model, data)
        trainer = trainer_of(model, task, batch_size=60, bn=bn)
        trainer.run(1, lr=1e-3)
        after = trainer.graph.arrays()
        assert all((after[n] != arrays[n]).any() for n in ("W", "scale", "shift"))
        mean = arrays["mean"]
        if bn == "train":  # the operator's definition: momentum 0.9 for the old
            mean = 0.9 * mean + 0.1 * (x[task.train] @ arrays["W"]).mean(0)
        np.testing.assert_allclose(after["mean"], mean, rtol=1e-4)


def test_own_loss_and_metric(tmp_path):
    (tmp_path / "own.py").write_text(
        "def loss(outputs, labels, teacher):\n"
        "    return (outputs['y'] - labels).abs().mean()\n"
        "def metric(outputs, labels, teacher):\n"
        "    return -abs(outputs['y'] - labels).max()\n"
    )
    data, model = regression(noise=0), linear(np.zeros((4, 2)), np.zeros(2))
    own = tmp_path / "own.py"
    task = task_of(model, data, loss=f"{own}:loss", metric=f"{own}:metric")
    trainer = trainer_of(model, task, batch_size=20)
    before = trainer.evaluate()
    assert before.loss == pytest.approx(np.abs(data["labels"][task.validation]).mean(), rel=1e-5)
    trainer.run(40, lr=0.05)
    assert trainer.evaluate().loss < before.loss / 5


@pytest.mark.parametrize(
    ("options", "words"),
    [({"lr": -1.0}, "--lr"), ({"lr": float("nan")}, "--lr"), ({"lr": 1.0, "momentum": 1.5}, "--momentum")],
)
def test_options_that_cannot_be_are_usage_errors(options, words):
    model = perceptron()
    trainer = trainer_of(model, task_of(model, blobs(30)))
    with pytest.raises(UsageError, match=words):
        trainer.run(1, **options)


def test_a_device_that_is_not_there_is_a_usage_error():
    model = perceptron()
    task = task_of(model, blobs(30))
    for device in ("cuda" if not torch.cuda.is_available() else "cuda:99", "tpu", "mps"):
        with pytest.raises(UsageError, match="device"):
            trainer_of(model, task, resources=Resources(device=device))


@pytest.mark.parametrize(("momentum", "batches"), [(0.9, 60), (0.99, 60), (0.99, 2), (0.0, 60), (1.0, 60)])
def test_statistics_are_estimated_as_the_mean_of_those_of_batches_whatever_the_momentum(momentum, batches):
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], momentum=momentum)
    start = {"s": np.ones(3), "b": np.zeros(3), "m": np.full(3, 7.0), "v": np.full(3, 50.0)}
    weights = {name: array.astype(np.float32) for name, array in start.items()}
    model = model_of([node], {"x": ["N", 3]}, {"y": ["N", 3]}, weights)
    x = (RNG.standard_normal((90, 3)) * [1, 2, 3] + 4).astype(np.float32)
    task = task_of(model, {"x": x})
    trainer = trainer_of(model, task, batch_size=20, bn="train")
    trainer.estimate_statistics(batches)
    found = trainer.graph.arrays(["m", "v"])
    if momentum == 1.0:  # the model says that they never move
        np.testing.assert_array_equal(found["m"], weights["m"])
        return
    order = np.random.default_rng([task.seed, 0xB4]).permutation(task.train)
    whole = [
        x[order[k * 20 : (k + 1) * 20]].astype(np.float64) for k in range(min(batches, len(order) // 20))
    ]
    np.testing.assert_allclose(found["m"], np.mean([b.mean(0) for b in whole], 0), rtol=1e-4)
    np.testing.assert_allclose(found["v"], np.mean([b.var(0) for b in whole], 0), rtol=1e-3)
