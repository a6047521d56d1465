from __future__ import annotations

import numpy as np
import pytest
from killing import assert_alike, whole_and_resumed
from test_lc_quant import QUICK, decoded, mlp, outputs, task_of

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.methods.finetune import Finetune
from onnxcompress.methods.lc_prune import LcPrune


def kept(plan) -> int:
    return sum(np.count_nonzero(array) for array in decoded(plan).values())


@pytest.fixture(autouse=True)
def small_nodes(monkeypatch):
    """Let weights as small as those of these models be worth it."""
    monkeypatch.setattr(LcPrune, "node_bytes", 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keep": 0.0}, "--keep must be over 0"),
        ({"keep": 1.5}, "--keep must be over 0"),
        ({"weights": 0}, "--weights must be at least 1"),
        ({"keep": 0.1, "weights": 5}, "exclude each other"),
        ({"weights": 5, "norm": "l1"}, "--weights is for --norm l0"),
        ({"alpha": 0.0}, "--alpha must be positive"),
        ({"alpha": 1.0, "keep": 0.1}, "--alpha and --keep exclude"),
        ({"alpha": 1.0, "weights": 5}, "--alpha and --weights exclude"),
        ({"alpha": 1.0, "per_layer": True}, "--per-layer is for limits"),
        ({"alpha": 1.0, "mode": "idc"}, "--alpha needs --mode lc"),
        ({"steps": 0}, "--steps must be positive"),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(UsageError, match=words.replace("-", r"\-")):
        LcPrune(**options)


def test_a_penalty_needs_data():
    with pytest.raises(UsageError, match="--alpha needs data"):
        LcPrune(alpha=0.1).plan(mlp(), None, Resources())


def test_without_data_the_largest_of_all_layers_stay():
    model = mlp()
    plan = LcPrune(keep=0.25).plan(model, None, Resources())
    whole = np.concatenate([model.array(n).ravel() for n in ("fc1.w", "fc2.w")])
    found = np.concatenate([decoded(plan)[n].ravel() for n in ("fc1.w", "fc2.w")])
    assert np.count_nonzero(found) == whole.size // 4
    assert np.abs(whole[found == 0]).max() <= np.abs(found[found != 0]).min()
    assert (found[found != 0] == whole[found != 0]).all()
    assert plan.training is None


def test_per_layer_keeps_the_share_of_each():
    values = decoded(LcPrune(keep=0.25, per_layer=True).plan(mlp(), None, Resources()))
    assert {n: np.count_nonzero(v) for n, v in values.items()} == {"fc1.w": 128, "fc2.w": 64}


def test_a_number_of_weights():
    assert kept(LcPrune(weights=77).plan(mlp(), None, Resources())) == 77
    assert kept(LcPrune(weights=33, per_layer=True).plan(mlp(), None, Resources())) == 66


def test_a_number_of_weights_is_that_of_the_layers_that_are_pruned(monkeypatch):
    monkeypatch.setattr(LcPrune, "node_bytes", 900)
    plan = LcPrune(weights=77).plan(mlp(), None, Resources())
    assert set(plan.weights) == {"fc1.w"}
    assert kept(plan) == 77
    assert "would not get smaller" in {r.where: r.why for r in plan.refusals}["fc2.w"]


def test_the_sum_of_magnitudes():
    model = mlp()
    plan = LcPrune(keep=0.1, norm="l1").plan(model, None, Resources())
    whole, rest = (
        sum(float(np.abs(a).sum()) for a in arrays)
        for arrays in ([model.array(n) for n in plan.weights], decoded(plan).values())
    )
    assert rest == pytest.approx(0.1 * whole, rel=1e-5)
    assert kept(plan) < 0.5 * 768


@pytest.mark.parametrize(("keep", "word"), [(0.1, "unusable"), (0.5, "marginal"), (0.9, None)])
def test_warning_without_training(keep, word):
    warnings = " ".join(LcPrune(keep=keep).plan(mlp(), None, Resources()).warnings)
    assert "no speed-up" in warnings
    assert word in warnings if word else "without training" not in warnings


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("options", [{"keep": 0.15}, {"keep": 0.3, "norm": "l1"}])
def test_training_beats_direct_compression(labelled, options):
    model = mlp()
    task = task_of(model, labelled)
    direct = LcPrune(**options, mode="dc").plan(model, task, Resources())
    plan = LcPrune(**options, steps=12, epochs=4, batch_size=32, mix=False).plan(model, task, Resources())
    x = np.random.default_rng(11).normal(size=(2000, 8)).astype(np.float32)
    wanted = outputs(model, x)

    def error(p):
        found = outputs(model.with_encodings({**p.values, **p.weights}, "q"), x)
        return (found.argmax(1) != wanted.argmax(1)).mean() if labelled else np.square(found - wanted).mean()

    assert error(plan) < 0.85 * error(direct)
    if "norm" not in options:
        assert kept(plan) == kept(direct) == int(0.15 * 768)


@pytest.mark.parametrize(("norm", "alphas"), [("l0", (3e-4, 3e-2)), ("l1", (1e-3, 1e-1))])
def test_the_larger_the_penalty_the_fewer_weights_stay(norm, alphas):
    model = mlp()
    task = task_of(model, True)
    plans = [
        LcPrune(alpha=a, norm=norm, steps=8, epochs=4, batch_size=32).plan(model, task, Resources())
        for a in alphas
    ]
    few, many = kept(plans[1]), kept(plans[0])
    assert few < 0.8 * many
    assert many < 768
    # The state that is returned is the best by loss and cost together, not the least compressed one.
    points = plans[1].training.points
    chosen = int(plans[1].training.stopped.split("after step ")[1].split()[0])
    if norm == "l0":
        assert points[chosen].compressed_loss + alphas[1] * few < points[0].compressed_loss + alphas[1] * 768


def test_sparse_weights_are_pruned_further_and_others_stay():
    model = mlp()
    once = LcPrune(keep=0.5).plan(model, None, Resources())
    book = AdaptiveCodebook(4).project([model.array("fc2.w")])[0]
    model = model.with_encodings({**once.weights, "fc2.w": book}, "before")
    again = LcPrune(keep=0.1).plan(model, None, Resources())
    assert set(again.weights) == {"fc1.w"}
    assert kept(again) == 51
    assert "codebook already" in {r.where: r.why for r in again.refusals}["fc2.w"]


def test_survivors_can_be_retrained():
    model = mlp()
    task = task_of(model, False)
    pruned = model.with_encodings(LcPrune(keep=0.2).plan(model, None, Resources()).weights, "lc-prune")
    plan = Finetune(epochs=3).plan(pruned, task, Resources(teacher=model))
    for name, array in decoded(plan).items():
        assert np.array_equal(array != 0, pruned.array(name) != 0)
    x = np.random.default_rng(11).normal(size=(1000, 8)).astype(np.float32)
    wanted = outputs(model, x)
    before, after = (
        np.square(outputs(m, x) - wanted).mean()
        for m in (pruned, pruned.with_encodings({**plan.values, **plan.weights}, "finetune"))
    )
    assert after < before


@pytest.mark.parametrize("options", [{"keep": 0.2}, {"alpha": 1e-3}, {"alpha": 1e-2, "norm": "l1"}])
def test_killed_run_is_taken_up_and_ends_alike(tmp_path, monkeypatch, options):
    model = mlp()
    method = LcPrune(**options, **QUICK)
    assert_alike(*whole_and_resumed(method, model, task_of(model, True), tmp_path, monkeypatch))


@pytest.mark.parametrize(
    ("opset", "words"), [(13, "make the file smaller"), (9, "set to zero bring no speed-up")]
)
def test_what_zeros_are_good_for_depends_on_the_operator_set(opset, words):
    plan = LcPrune(keep=0.2).plan(mlp(opset=opset), None, Resources())
    assert words in plan.warnings[0]
