"""Pruned first, then quantised, then fine-tuned: zeros stay, the rest gets a codebook."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from onnxcompress.core.resources import Resources
from onnxcompress.encodings.sparse import sparse
from onnxcompress.engine.proto import from_proto, to_proto
from onnxcompress.engine.storage import stored
from onnxcompress.methods.finetune import Finetune
from onnxcompress.methods.lc_prune import LcPrune
from onnxcompress.methods.lc_quant import LcQuant

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import model_of, task_for

RNG = np.random.default_rng(0)
QUICK = {"steps": 2, "epochs": 2, "batch_size": 32, "lr": 0.05}


def net(opset: int = 17):
    """x (N 64) → Gemm 96 → Relu → Gemm 8."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], "fc1", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], "fc2", transB=1),
    ]
    tensors = {
        "w1": RNG.normal(size=(96, 64)) * 0.2,
        "b1": np.zeros(96),
        "w2": RNG.normal(size=(64, 96)) * 0.2,
        "b2": np.zeros(64),
    }
    return model_of(nodes, tensors, (64,), 64, opset)


def pruned(model, keep: float = 0.2, **options):
    plan = LcPrune(keep=keep, mode="dc", **options).plan(model, None, Resources())
    return model.with_encodings(plan.weights, "lc-prune")


def after(model, plan, step: str):
    return model.with_encodings({**plan.values, **plan.weights}, step)


def test_zeros_stay_and_the_others_get_codes():
    model = pruned(net())
    plan = LcQuant(bits=2).plan(model, None, Resources())
    for name in ("w1", "w2"):
        encoding = plan.weights[name]
        assert encoding.kind == "sparse-codebook"
        assert np.array_equal(encoding.mask(), model.encodings[name].mask())
        assert len(np.unique(encoding.decode()[encoding.mask()])) <= 4
        assert encoding.stored_bits() < model.encodings[name].stored_bits() / 3


@pytest.mark.parametrize("options", [{"codebook": "binary"}, {"codebook": "int", "bits": 3}, {"entries": 5}])
def test_every_kind_of_codebook(options):
    model = pruned(net())
    plan = LcQuant(**options).plan(model, None, Resources())
    for name, encoding in plan.weights.items():
        assert encoding.kind == "sparse-codebook"
        assert not encoding.decode()[~model.encodings[name].mask()].any()


def test_trained_with_data_it_comes_closer_and_keeps_the_zeros():
    model, task = net(), task_for((64,), 64, count=200)
    small = pruned(model, 0.4)
    resources = Resources(teacher=model)
    direct = LcQuant(bits=1, mode="dc").plan(small, task, resources)
    trained = LcQuant(bits=1, augment=False, mix=False, **QUICK).plan(small, task, resources)
    for name, encoding in trained.weights.items():
        assert encoding.kind == "sparse-codebook"
        assert np.array_equal(encoding.mask(), small.encodings[name].mask())
    loss = [point.compressed_loss for point in trained.training.points]
    assert min(loss) < loss[0]
    tuned = Finetune(epochs=2, lr=3e-3, augment=False).plan(after(small, direct, "q"), task, resources)
    assert tuned.weights.keys() == {"w1", "w2"}
    for name, encoding in tuned.weights.items():
        assert np.array_equal(encoding.places, direct.weights[name].places)
        assert encoding.stored_bits() == direct.weights[name].stored_bits()
    points = [point.compressed_loss for point in tuned.training.points]
    assert min(points) < points[0]


def test_a_joint_codebook_is_for_sparse_weights_together():
    model = pruned(net())
    plan = LcQuant(bits=2, joint=True).plan(model, None, Resources())
    assert np.array_equal(plan.weights["w1"].entries, plan.weights["w2"].entries)
    mixed = net().with_encodings({"w1": model.encodings["w1"]}, "lc-prune")
    plan = LcQuant(bits=2, joint=True).plan(mixed, None, Resources())
    assert {n: e.kind for n, e in plan.weights.items()} == {"w1": "sparse-codebook", "w2": "codebook"}
    assert any("joint codebook each" in warning for warning in plan.warnings)


def test_channels_of_sparse_weights_share_one_codebook_and_the_user_is_told():
    plan = LcQuant(bits=2, granularity="channel").plan(pruned(net()), None, Resources())
    assert all(encoding.entries.ndim == 1 for encoding in plan.weights.values())
    assert any("sparse weights have one codebook each" in warning for warning in plan.warnings)


def test_an_operator_set_that_can_be_raised_is_no_hindrance():
    model = pruned(net(opset=9))
    plan = LcQuant(bits=2).plan(model, None, Resources(input_shapes={"x": (1, 64)}))
    late = LcQuant(bits=2).plan(pruned(net(opset=11)), None, Resources(input_shapes={"x": (1, 64)}))
    assert {n: e.kind for n, e in plan.weights.items()} == {"w1": "sparse-codebook", "w2": "sparse-codebook"}
    assert {n: e.kind for n, e in late.weights.items()} == {n: e.kind for n, e in plan.weights.items()}


@pytest.mark.parametrize("joint", [False, True])
def test_where_no_sparse_form_can_be_decoded_zero_is_an_entry(joint, monkeypatch):
    def refuse(proto, least):
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    model = pruned(net(opset=9))
    plan = LcQuant(bits=2, joint=joint).plan(model, None, Resources())
    for name in ("w1", "w2"):
        encoding = plan.weights[name]
        assert encoding.kind == "codebook"
        assert encoding.entries.size == 5
        assert np.array_equal(encoding.decode() != 0, model.encodings[name].mask())
    _, refusals = stored.lower(after(model, plan, "q"))
    assert not refusals
    task = task_for((64,), 64, count=60)
    trained = LcQuant(bits=2, augment=False, mix=False, **QUICK).plan(model, task, Resources(teacher=net(9)))
    for name, encoding in trained.weights.items():
        assert not encoding.decode()[~model.encodings[name].mask()].any()


def test_what_would_not_get_smaller_stays_as_it_is():
    model = net()
    few = np.zeros((96, 64), np.float32)
    few[::30, ::20] = RNG.normal(size=(4, 4))
    model = model.with_encodings({"w1": sparse(few)}, "test")
    plan = LcQuant(bits=4, include=("w1",)).plan(model, None, Resources())
    assert not plan.weights
    assert any(r.where == "w1" and "would not get smaller" in r.why for r in plan.refusals)


def test_a_file_of_ours_is_quantised_on():
    """What was written sparse is read sparse, and with more entries than asked for gets fewer."""
    model = pruned(net())
    for bits, kind in ((6, "sparse-codebook"), (2, "sparse-codebook")):
        plan = LcQuant(bits=bits).plan(model, None, Resources())
        assert {e.kind for e in plan.weights.values()} == {kind}
        lowered, _ = stored.lower(after(model, plan, "q"))
        graph, encodings = stored.lift(from_proto(to_proto(lowered)))
        model = type(model)(graph, model.source, encodings)
        assert {e.codebook().size for e in model.encodings.values()} == {2**bits}
    plan = LcQuant(bits=3).plan(model, None, Resources())
    assert not plan.weights
    assert any("of 4 codes already" in refusal.why for refusal in plan.refusals)
