from __future__ import annotations

import dataclasses
import itertools
import math
import time

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from killing import assert_alike, whole_and_resumed
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.errors import UnsupportedError, UsageError
from onnxcompress.core.model import Model, Source
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.lc import training as lc_training
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.methods.lc_quant import LcQuant

INPUT = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 8))
OUTPUT = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 4))
QUICK = {"steps": 4, "epochs": 3, "batch_size": 32, "lr": 0.1, "mix": False}


def mlp(seed: int = 0, dtype=np.float32, opset: int = 17) -> Model:
    """x (N 8) → Gemm 64 → Tanh → Gemm 4, and a per-feature offset."""
    rng = np.random.default_rng(seed)

    def tensor(name, *shape, scale=0.5):
        return numpy_helper.from_array((rng.normal(size=shape) * scale).astype(dtype), name)

    kind = TensorProto.FLOAT if dtype is np.float32 else TensorProto.FLOAT16
    graph = helper.make_graph(
        [
            helper.make_node("Sub", ["x", "offset"], ["c"], "centre"),
            helper.make_node("Gemm", ["c", "fc1.w", "fc1.b"], ["h"], "fc1", transB=1),
            helper.make_node("Tanh", ["h"], ["t"], "tanh"),
            helper.make_node("Gemm", ["t", "fc2.w", "fc2.b"], ["y"], "fc2", transB=1),
        ],
        "mlp",
        [helper.make_tensor_value_info("x", kind, ("N", 8))],
        [helper.make_tensor_value_info("y", kind, ("N", 4))],
        [tensor("offset", 1, 8), tensor("fc1.w", 64, 8), tensor("fc1.b", 64), tensor("fc2.w", 4, 64),
         tensor("fc2.b", 4)],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(proto)
    return Model(ir.serde.deserialize_model(proto), Source(None, "00", 0))


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    w = {name: model.array(name).astype(np.float64) for name in model.weights}
    h = np.tanh((x - w["offset"]) @ w["fc1.w"].T + w["fc1.b"])
    return h @ w["fc2.w"].T + w["fc2.b"]


def task_of(model: Model, labelled: bool, count: int = 400, seed: int = 0):
    x = np.random.default_rng(7).normal(size=(count, 8)).astype(np.float32)
    scores = outputs(model, x)
    rows = [{"x": x[i : i + 1]} for i in range(count)]
    if labelled:
        rows = [row | {"labels": scores[i : i + 1].argmax(1)} for i, row in enumerate(rows)]
    return make_task(
        open_data(rows, [INPUT], outputs=[OUTPUT], labels="labels" if labelled else None), seed=seed
    )


def decoded(plan) -> dict[str, np.ndarray]:
    return {name: encoding.decode() for name, encoding in plan.weights.items()}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 0}, "--bits must be 1 to 8"),
        ({"bits": 9}, "--bits must be 1 to 8"),
        ({"entries": 1}, "--entries must be 2 to 256"),
        ({"entries": 257}, "--entries must be 2 to 256"),
        ({"bits": 2, "entries": 4}, "exclude each other"),
        ({"codebook": "binary", "bits": 2}, "a binary codebook has 2 entries"),
        ({"codebook": "ternary", "entries": 4}, "a ternary codebook has 3 entries"),
        ({"codebook": "pow2", "bits": 1}, "at least 3 entries"),
        ({"codebook": "int", "pin_zero": True}, "--pin-zero is for adaptive"),
        ({"learn_scale": False}, "--no-learn-scale is for fixed codebooks"),
        ({"codebook": "trellis", "learn_scale": False}, "--no-learn-scale is for fixed codebooks"),
        ({"codebook": "trellis", "entries": 4}, "takes --bits, not --entries"),
        ({"codebook": "trellis", "bits": 5}, "codes of 1 to 4 bits"),
        ({"codebook": "trellis", "pin_zero": True}, "--pin-zero is for adaptive"),
        ({"codebook": "trellis", "granularity": "channel"}, "none for its parts"),
        ({"granularity": "group"}, "needs --group-size"),
        ({"group_size": 0}, "--group-size must be positive"),
        ({"granularity": "channel", "group_size": 8}, "contradicts"),
        ({"joint": True, "granularity": "channel"}, "one codebook for all"),
        ({"lr": 0.0}, "--lr must be positive"),
        ({"lr": float("nan")}, "--lr must be positive"),
        ({"steps": 0}, "--steps must be positive"),
        ({"batch_size": -1}, "--batch-size must be positive"),
        ({"growth": 0.5}, "--growth must be at least 1"),
        ({"teacher": 1.5}, "--teacher must be 0 to 1"),
        ({"noise": -0.1}, "--noise must be 0 to 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(UsageError, match=words.replace("-", r"\-")):
        LcQuant(**options)


def test_every_option_has_a_text():
    for field in dataclasses.fields(LcQuant):
        assert field.metadata["help"].endswith((".", "]"))


def test_without_data_it_is_the_projection():
    model = mlp()
    plan = LcQuant(bits=2).plan(model, None, Resources())
    assert set(plan.weights) == {"fc1.w", "fc2.w"}
    assert plan.training is None
    for name, array in decoded(plan).items():
        (expected,) = AdaptiveCodebook(4).project([model.array(name)])
        np.testing.assert_array_equal(array, expected.decode())


@pytest.mark.parametrize(
    ("options", "distinct"),
    [
        ({"codebook": "binary"}, 2),
        ({"codebook": "ternary"}, 3),
        ({"codebook": "pow2", "bits": 2}, 4),
        ({"codebook": "int", "bits": 2}, 4),
        ({"codebook": "binary", "learn_scale": False}, 2),
        ({"entries": 5}, 5),
        ({"entries": 5, "pin_zero": True}, 5),
    ],
)
def test_kinds_of_codebooks(options, distinct):
    plan = LcQuant(**options).plan(mlp(), None, Resources())
    values = decoded(plan)["fc1.w"]
    assert 2 <= len(np.unique(values)) <= distinct
    if options.get("learn_scale") is False:
        assert set(np.unique(values)) == {-1.0, 1.0}
    if options.get("pin_zero") or options.get("codebook") == "ternary":
        assert 0.0 in values


def test_granularity_follows_the_output_axis():
    plan = LcQuant(bits=1, granularity="channel").plan(mlp(), None, Resources())
    values = decoded(plan).get("fc2.w")
    assert values is None or max(len(np.unique(row)) for row in values) == 2
    first = decoded(LcQuant(bits=1, group_size=64, include=("fc2",)).plan(mlp(), None, Resources()))["fc2.w"]
    assert max(len(np.unique(row)) for row in first) == 2
    assert len(np.unique(first)) == 8


def test_joint_codebook():
    values = decoded(LcQuant(bits=2, joint=True).plan(mlp(), None, Resources()))
    assert len(np.unique(np.concatenate([v.ravel() for v in values.values()]))) == 4


def test_what_is_left_alone_is_named():
    plan = LcQuant(bits=2, exclude=("fc2",)).plan(mlp(), None, Resources())
    why = {r.where: r.why for r in plan.refusals}
    assert set(plan.weights) == {"fc1.w"}
    assert "excluded" in why["fc2.w"]
    assert "Sub 'centre'" in why["offset"]


def test_weight_that_would_not_shrink_is_left_alone():
    plan = LcQuant(entries=256).plan(mlp(), None, Resources())
    assert "would not get smaller" in {r.where: r.why for r in plan.refusals}["fc2.w"]


@pytest.mark.parametrize(("bits", "word"), [(1, "unusable"), (3, "unusable"), (4, "marginal"), (6, None)])
def test_warning_without_training(bits, word):
    warnings = " ".join(LcQuant(bits=bits).plan(mlp(), None, Resources()).warnings)
    assert (word in warnings) if word else not warnings


def test_nan_weight_is_named():
    model = mlp()
    broken = model.array("fc1.w").copy()
    broken[0, 0] = np.nan
    model.weights["fc1.w"].value.const_value = ir.tensor(broken, name="fc1.w")
    with pytest.raises(UnsupportedError, match=r"weight 'fc1.w' holds NaN"):
        LcQuant().plan(model, None, Resources())


def test_weights_encoded_finely_enough_already_are_kept():
    model = mlp()
    once = LcQuant(bits=2).plan(model, None, Resources())
    model = model.with_encodings(once.weights, "lc-quant")
    again = LcQuant(bits=2).plan(model, None, Resources())
    assert not again.weights
    assert "codebook of 4 codes already" in {r.where: r.why for r in again.refusals}["fc1.w"]
    finer = LcQuant(bits=1).plan(model, None, Resources())
    assert len(np.unique(finer.weights["fc1.w"].decode())) == 2


def wide(opset: int = 17) -> Model:
    """A perceptron whose first weight is worth a trellis (4,096 weights), the second not (256)."""
    rng = np.random.default_rng(0)
    shapes = {"fc1.w": (64, 64), "fc1.b": (64,), "fc2.w": (4, 64), "fc2.b": (4,)}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "fc1.w", "fc1.b"], ["h"], "fc1", transB=1),
            helper.make_node("Tanh", ["h"], ["t"], "tanh"),
            helper.make_node("Gemm", ["t", "fc2.w", "fc2.b"], ["y"], "fc2", transB=1),
        ],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 64))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 4))],
        [
            numpy_helper.from_array((0.3 * rng.normal(size=s)).astype(np.float32), n)
            for n, s in shapes.items()
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return Model(ir.serde.deserialize_model(proto), Source(None, "00", 0))


def test_a_trellis_is_nearer_than_a_plain_codebook_of_as_many_codes():
    model = wide()
    array = model.array("fc1.w")
    errors = {}
    for codebook in ("adaptive", "trellis"):
        plan = LcQuant(bits=2, codebook=codebook).plan(model, None, Resources())
        errors[codebook] = np.linalg.norm(plan.weights["fc1.w"].decode() - array) / np.linalg.norm(array)
        assert plan.weights["fc1.w"].kind == {"adaptive": "codebook"}.get(codebook, codebook)
    assert errors["trellis"] < 0.87 * errors["adaptive"]
    bits = plan.weights["fc1.w"].stored_bits()
    assert bits < 2.3 * array.size


def test_the_warning_of_a_trellis_tells_its_bits_and_not_a_number_of_entries():
    found = LcQuant(codebook="trellis", bits=2).plan(wide(), None, Resources())
    assert any("trellises of 2 bits a weight without training" in w for w in found.warnings)
    assert not any("codebooks of 4 entries" in w for w in found.warnings)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{"codebook": "pow2"}, {"codebook": "int", "bits": 8}, {"bits": 1}])
def test_weights_near_the_largest_number_get_no_infinite_form(options):
    model = wide()
    rng = np.random.default_rng(0)
    huge = np.sign(rng.normal(size=(64, 64))) * rng.uniform(3.0e38, 3.4e38, (64, 64))
    model.ir.graph.initializers["fc1.w"].const_value = ir.tensor(huge.astype(np.float32))
    model = Model(model.ir, model.source)
    plan = LcQuant(**options).plan(model, None, Resources())
    assert all(np.isfinite(encoding.decode()).all() for encoding in plan.weights.values())
    told = {refusal.where: refusal.why for refusal in plan.refusals}
    assert "fc1.w" in plan.weights or "near the largest of their type" in told["fc1.w"]
    assert ("fc1.w" in plan.weights) == (options.get("codebook") != "pow2")


def test_a_trellis_already_there_is_kept():
    model = wide()
    once = LcQuant(bits=2, codebook="trellis").plan(model, None, Resources())
    model = model.with_encodings(once.weights, "lc-quant")
    for options in ({"bits": 2}, {"bits": 4, "codebook": "trellis"}):
        again = LcQuant(**options).plan(model, None, Resources())
        assert "trellis of 4 codes already" in {r.where: r.why for r in again.refusals}["fc1.w"]
    assert LcQuant(bits=1).plan(model, None, Resources()).weights["fc1.w"].kind == "codebook"


def test_a_trellis_of_a_model_that_cannot_decode_it_is_a_plain_codebook(monkeypatch):
    model, method = wide(7), LcQuant(bits=2, codebook="trellis")
    plan = method.plan(model, None, Resources())
    assert plan.weights["fc1.w"].kind == "trellis"  # operator set 7 can be raised
    monkeypatch.setattr("onnxcompress.engine.opset.reaches", lambda *_: False)
    plan = method.plan(model, None, Resources())
    assert plan.weights["fc1.w"].kind == "codebook"
    assert any("operator set 10" in warning for warning in plan.warnings)


def test_training_a_trellis_is_resumed_and_ends_alike(tmp_path, monkeypatch):
    model = wide()
    rng = np.random.default_rng(1)
    x = rng.normal(size=(200, 64)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=rng.integers(0, 4, 200))
    inputs = (dataclasses.replace(INPUT, shape=("N", 64)),)
    task = make_task(open_data(tmp_path / "d.npz", inputs, outputs=(OUTPUT,)), seed=0)
    method = LcQuant(bits=1, codebook="trellis", **QUICK)
    whole, rest = whole_and_resumed(method, model, task, tmp_path / "states", monkeypatch)
    assert_alike(whole, rest)
    assert whole.weights["fc1.w"].kind == "trellis"


def test_model_with_nothing_to_compress_gives_an_empty_plan():
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 8))],
        [numpy_helper.from_array(np.ones((1, 8), np.float32), "b")],
    )
    model = Model(ir.serde.deserialize_model(helper.make_model(graph)), Source(None, "", 0))
    plan = LcQuant().plan(model, None, Resources())
    assert not plan.weights
    assert [r.where for r in plan.refusals] == ["b"]


@pytest.mark.parametrize("labelled", [True, False])
def test_training_beats_direct_compression(labelled):
    model = mlp()
    task = task_of(model, labelled)
    direct = LcQuant(bits=1, mode="dc").plan(model, task, Resources())
    plan = LcQuant(bits=1, steps=6, epochs=4, batch_size=32, mix=False).plan(model, task, Resources())
    assert direct.training is None
    assert plan.training.labelled is labelled
    x = np.random.default_rng(11).normal(size=(2000, 8)).astype(np.float32)
    wanted = outputs(model, x)

    def error(p):
        """Wrong classes with labels, mean square difference without, on inputs nobody has seen."""
        found = outputs(model.with_encodings({**p.values, **p.weights}, "q"), x)
        return (found.argmax(1) != wanted.argmax(1)).mean() if labelled else np.square(found - wanted).mean()

    assert error(plan) < 0.8 * error(direct)
    assert all(len(np.unique(v)) == 2 for v in decoded(plan).values())
    assert set(plan.values) == {"offset", "fc1.b", "fc2.b"}


@pytest.mark.parametrize("mode", ["lc", "idc"])
@pytest.mark.parametrize("options", [{}, {"lr": 50.0}, {"augmented": False}])
def test_never_worse_than_direct_compression_on_validation(mode, options):
    model = mlp()
    plan = LcQuant(bits=3, mode=mode, **(QUICK | options)).plan(model, task_of(model, True), Resources())
    points = plan.training.points
    kept = int(plan.training.stopped.split("after step ")[1].split()[0])
    best, found = max(p.compressed_metric for p in points), points[kept].compressed_metric
    assert found >= points[0].compressed_metric
    chance = math.sqrt(best * (1 - best) / 40) if mode == "lc" else 0
    assert found >= best - 1.1 * chance


def test_same_seed_same_plan_and_others_differ():
    model = mlp()
    first, second, other = (
        decoded(LcQuant(bits=1, **QUICK).plan(model, task_of(model, True, seed=s), Resources()))
        for s in (1, 1, 2)
    )
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize(
    ("augment", "labelled", "expected"),
    [
        (True, False, True),
        (True, True, True),
        (False, True, False),
        (False, False, False),
    ],
)
def test_pictures_are_shifted_where_labels_allow_it(monkeypatch, augment, labelled, expected):
    jobs = []

    def stop(job):
        jobs.append(job)
        raise KeyboardInterrupt

    monkeypatch.setattr(lc_training, "train", stop)
    model = mlp()
    with pytest.raises(KeyboardInterrupt):
        LcQuant(bits=1, augment=augment).plan(model, task_of(model, labelled), Resources())
    assert jobs[0].shift is expected
    assert (jobs[0].noise > 0) is labelled


def test_the_original_teaches_where_an_earlier_method_changed_the_model():
    original = mlp()
    rng = np.random.default_rng(4)
    worse = {n: Dense(original.array(n) + 0.2 * rng.normal(size=(64, 8)).astype("f")) for n in ("fc1.w",)}
    changed = original.with_encodings(worse, "change")
    x = np.random.default_rng(11).normal(size=(2000, 8)).astype(np.float32)
    wanted = outputs(original, x)

    def error(teacher):
        """Mean square distance from the original's outputs."""
        method = LcQuant(bits=4, steps=6, epochs=4, batch_size=32, mix=False)
        plan = method.plan(changed, task_of(original, False), Resources(teacher=teacher))
        found = outputs(changed.with_encodings({**plan.values, **plan.weights}, "q"), x)
        return np.square(found - wanted).mean()

    assert error(original) < 0.5 * error(None)


def test_others_can_be_left_as_they_are():
    model = mlp()
    plan = LcQuant(bits=1, others=False, **QUICK).plan(model, task_of(model, False), Resources())
    assert not plan.values


def test_excluded_weights_are_trained_along():
    model = mlp()
    plan = LcQuant(bits=1, exclude=("fc2",), **QUICK).plan(model, task_of(model, False), Resources())
    assert set(plan.weights) == {"fc1.w"}
    assert "fc2.w" in plan.values


def test_encoded_weights_are_not_trained_along():
    model = mlp()
    once = LcQuant(bits=4, include=("fc2",)).plan(model, None, Resources())
    model = model.with_encodings(once.weights, "q")
    plan = LcQuant(bits=4, include=("fc1",), **QUICK).plan(model, task_of(model, False), Resources())
    assert set(plan.weights) == {"fc1.w"}
    assert "fc2.w" not in plan.values


@pytest.mark.parametrize("mode", ["lc", "idc"])
def test_killed_run_is_taken_up_and_ends_alike(tmp_path, monkeypatch, mode):
    model = mlp()
    task = task_of(model, True)
    method = LcQuant(bits=2, mode=mode, **QUICK)
    whole, rest = whole_and_resumed(method, model, task, tmp_path, monkeypatch)
    assert_alike(whole, rest)
    ours, theirs = ([p.compressed_loss for p in plan.training.points] for plan in (whole, rest))
    assert ours == theirs
    with pytest.raises(UsageError, match="other options"):
        LcQuant(bits=1, mode=mode, **QUICK).plan(model, task, Resources(checkpoint_dir=tmp_path, resume=True))


@pytest.mark.parametrize("limit", [1.0, 1e6, None])
def test_time_limit_shortens_the_path_which_comes_to_its_end(monkeypatch, limit):
    ticks = itertools.count()  # a clock that goes on by a millisecond whenever somebody looks at it
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 1000)
    model = mlp()
    plan = LcQuant(bits=1, mode="lc", epochs=10.0, mix=False).plan(
        model, task_of(model, False), Resources(max_time_s=limit)
    )
    assert len(np.unique(plan.weights["fc1.w"].decode())) == 2
    training = plan.training
    assert training.stopped.startswith(("all steps made", "w and"))
    assert (training.epochs < 200) is (limit == 1.0)
    assert training.points[-1].gap < 0.1 < training.points[0].gap
    told = [w for w in plan.warnings if w.startswith("--max-time was enough for")]
    assert len(told) == (limit == 1.0)
    assert all(w.endswith(" of 400 passes over the data") for w in told)
    # Times are counted from the beginning: before the first point a rate is searched, step by step.
    assert training.points[0].elapsed_s > 0.05
    assert [p.elapsed_s for p in training.points] == sorted(p.elapsed_s for p in training.points)


def test_time_that_is_over_before_the_path_begins_is_told(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks) / 1000)
    model = mlp()
    plan = LcQuant(bits=1, epochs=10.0).plan(model, task_of(model, False), Resources(max_time_s=0.005))
    assert "--max-time was enough for 0 of 400 passes over the data" in plan.warnings
    assert plan.training.epochs == 0


def test_progress_goes_from_nothing_to_all():
    told = []
    model = mlp()
    LcQuant(bits=1, **QUICK).plan(
        model, task_of(model, False), Resources(progress=lambda f, w, p: told.append((f, p)))
    )
    fractions = [f for f, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert [p.step for _, p in told if p is not None] == list(range(5))


def test_half_precision_model_keeps_its_type():
    model = mlp(dtype=np.float16)
    info = [TensorInfo("x", "tensor(float16)", np.dtype(np.float16), ("N", 8))]
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float16)
    task = make_task(open_data([{"x": row[None]} for row in x], info))
    plan = LcQuant(bits=1, **QUICK).plan(model, task, Resources())
    assert {e.dtype for e in (*plan.weights.values(), *plan.values.values())} == {np.dtype(np.float16)}
