"""lc-lowrank: given and learned ranks, what stays whole and why, and training that pays."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UnsupportedError, UsageError
from onnxcompress.core.model import Model, Source
from onnxcompress.core.resources import Resources
from onnxcompress.encodings.lowrank import LowRank
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.methods._base import METHODS
from onnxcompress.recipe import build

SHAPES = {"x": (1, 4, 12, 12)}


def spectrum(n: int, m: int, rank: int, seed: int) -> np.ndarray:
    """A matrix that is nearly of a rank."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, rank)) @ rng.normal(size=(rank, m)) / rank + 0.02 * rng.normal(size=(n, m))


def network() -> onnx.ModelProto:
    """Conv 4→32 (nearly rank 3), Conv 32→32 (nearly rank 12), grouped Conv, Gemm 1152→20 (nearly rank 2)."""
    weights = {
        "conv1.w": spectrum(32, 36, 3, 0).reshape(32, 4, 3, 3),
        "conv2.w": spectrum(32, 288, 12, 1).reshape(32, 32, 3, 3),
        "depth.w": np.random.default_rng(2).normal(size=(32, 1, 3, 3)),
        "fc.w": spectrum(20, 1152, 2, 3),
        "fc.b": np.zeros(20),
    }
    tensors = [numpy_helper.from_array((0.2 * a).astype(np.float32), n) for n, a in weights.items()]
    pads = [1, 1, 1, 1]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv1.w"], ["a"], "conv1", pads=pads),
            helper.make_node("Relu", ["a"], ["b"], "relu1"),
            helper.make_node("Conv", ["b", "conv2.w"], ["c"], "conv2", pads=pads, strides=[2, 2]),
            helper.make_node("Relu", ["c"], ["d"], "relu2"),
            helper.make_node("Conv", ["d", "depth.w"], ["e"], "depth", pads=pads, group=32),
            helper.make_node("Flatten", ["e"], ["f"], "flatten"),
            helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], "fc", transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4, 12, 12))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 20))],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def model() -> Model:
    return Model(from_proto(network()), Source(None, "0", 0))


def plan(**options):
    return METHODS["lc-lowrank"](**options).plan(model(), None, Resources(input_shapes=SHAPES))


def ranks(found) -> dict[str, int]:
    return {n: e.rank for n, e in found.weights.items() if isinstance(e, LowRank)}


def test_a_given_rank_goes_to_every_layer_where_it_pays() -> None:
    found = plan(rank=12)
    assert ranks(found) == {"conv1.w": 12, "conv2.w": 12, "fc.w": 12}
    refused = {r.where: r.why for r in found.refusals}
    assert "in groups" in refused["depth.w"]
    assert ranks(plan(rank="17")) == {"conv2.w": 17, "fc.w": 17}
    assert "rank 17 would not be smaller" in {r.where: r.why for r in plan(rank=17).refusals}["conv1.w"]


@pytest.mark.parametrize("scheme", ["1", "2"])
def test_the_scheme_is_what_was_asked_for(scheme: str) -> None:
    rows = {"1": (0,), "2": (0, 2)}[scheme]
    found = plan(rank=5, scheme=scheme)
    for name in ("conv1.w", "conv2.w"):
        assert found.weights[name].layout.rows == rows


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_a_target_is_met_and_used_up(quantity: str, share: float) -> None:
    result = onnxcompress.compress(
        network(), method="lc-lowrank", target=f"{quantity}={share}", round_to=1, input_shapes=SHAPES
    )
    before, after = result.run.models
    reached = after.macs / before.macs if quantity == "macs" else after.parameters / before.parameters
    assert share - 0.036 <= reached <= share + 1e-9, "one rank of the largest layer is 0.035"


def test_learned_ranks_follow_the_spectra() -> None:
    """Layers that are nearly of a rank get about that rank; equal ones would cut what needs more."""
    found = ranks(plan(target="params=0.2", scheme="1"))
    assert found["conv1.w"] in (2, 3)
    assert found["conv2.w"] in (11, 12)
    assert found["fc.w"] in (2, 3)


def test_ranks_are_rounded_for_work_and_not_for_parameters() -> None:
    assert all(r % 4 == 0 for r in ranks(plan(target="macs=0.5")).values())
    fine = ranks(plan(target="params=0.35"))
    assert any(r % 4 for r in fine.values())


def test_a_layer_that_needs_all_it_has_stays_whole() -> None:
    found = plan(target="macs=0.97", round_to=1)
    whole = [r.where for r in found.refusals if "worth more whole" in r.why]
    assert whole
    assert not set(whole) & set(found.weights)


def timed(calls: list[float]):
    """A stopwatch for which a rank takes as long as it has weights, and every layer a while."""

    def latency(timed_model: Model, keep) -> float:
        assert not keep
        whole = model()
        stored = sum(
            timed_model.encodings[n].stored_bits() / 32 if n in timed_model.encodings else w.size
            for n, w in whole.weights.items()
        )
        calls.append(0.1 + 0.9 * stored / sum(w.size for w in whole.weights.values()))
        return calls[-1]

    return latency


def test_a_latency_is_measured_and_its_ranks_stay() -> None:
    calls: list[float] = []
    resources = Resources(input_shapes=SHAPES, latency=timed(calls))
    found = METHODS["lc-lowrank"](target="latency=0.6", round_to=1).plan(model(), None, resources)
    assert 3 <= len(calls) <= 8
    reached = timed([])(model().with_encodings(found.weights, "lc-lowrank"), {})
    assert 0.5 < reached <= 0.6
    assert reached in calls
    with pytest.raises(UnsupportedError, match=r"0.1 of the latency cannot be reached.*was measured"):
        METHODS["lc-lowrank"](target="latency=0.1").plan(model(), None, resources)
    with pytest.raises(UsageError, match="cannot be measured here"):
        plan(target="latency=0.6")


def test_what_cannot_be_reached_is_told_with_what_can() -> None:
    with pytest.raises(UnsupportedError, match=r"0.001 of the multiply-accumulates cannot.*stay with every"):
        plan(target="macs=0.001", round_to=1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rank": "many"}, "auto or a number"),
        ({"rank": 0}, "auto or a number"),
        ({"rank": 4, "target": "macs=0.5"}, "--target is for --rank auto"),
        ({"rank": 4, "alpha": 1e-6}, "--alpha is for --rank auto"),
        ({"alpha": 1e-6, "target": "macs=0.5"}, "exclude each other"),
        ({"alpha": -1.0}, "must be positive"),
        ({"alpha": 1e-6, "mode": "dc"}, "needs --mode lc"),
        ({"target": "macs=2"}, "cannot read the target"),
        ({"target": "macs=0.5,macs=0.3"}, "'macs=0.5,macs=0.3' names several quantities"),
        ({"target": "macs=0.5,params=0.3"}, "holds one"),
        ({"round_to": 3}, "--round-to must be"),
        ({"cost": "macs"}, "--alpha is the price of"),
    ],
)
def test_options_that_make_no_sense(options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        METHODS["lc-lowrank"](**options)


def test_a_price_needs_data_and_recipes_may_write_ranks_as_numbers() -> None:
    with pytest.raises(UsageError, match="--alpha needs data"):
        plan(alpha=1e-6)
    recipe = build(["lc-lowrank"], {"rank": 7})
    assert recipe.to_dict()["method"][0]["rank"] == 7


def test_nothing_to_factor_is_told() -> None:
    with pytest.raises(NothingChangedError, match="rank 200 would not be smaller"):
        onnxcompress.compress(network(), method="lc-lowrank", rank=200, input_shapes=SHAPES)


def test_a_chain_cuts_then_factors_then_quantises() -> None:
    result = onnxcompress.compress(
        network(),
        method=["magnitude", "lc-lowrank", "lc-quant"],
        input_shapes=SHAPES,
        keep=0.5,
        rank=4,
        bits=4,
    )
    facts = {w.name: w for w in result.run.weights}
    conv = facts["conv2.w"]
    assert conv.encoding == "low-rank"
    assert conv.rank == 4
    assert conv.shape_after is not None
    assert conv.bits_after < 32 * 4 * (32 + 288) / 4
    assert result.run.models[1].macs < result.run.models[0].macs / 2
    assert any(n.name == "conv2_in" for n in result.model.graph.node)


def test_factors_that_a_later_cut_shortens_are_told_with_the_shape_that_is_left() -> None:
    result = onnxcompress.compress(
        network(), method=["lc-lowrank", "magnitude"], input_shapes=SHAPES, rank=8, keep=0.5, round_to=None
    )
    facts = {w.name: w for w in result.run.weights}
    assert facts["conv1.w"].rank is not None
    assert facts["conv1.w"].rank <= 8
    assert facts["conv1.w"].shape_after is not None


QUICK = {"steps": 5, "epochs": 3.0, "batch_size": 32, "lr": 0.01, "mix": False}


@pytest.mark.parametrize("options", [{"rank": 6}, {"target": "macs=0.4"}, {"alpha": 1e-4}])
def test_training_returns_factors(options) -> None:
    rng = np.random.default_rng(5)
    rows = [{"x": rng.normal(size=(1, 4, 12, 12)).astype(np.float32)} for _ in range(160)]
    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 4, 12, 12))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 20))
    task = make_task(open_data(rows, [info], outputs=[out]), seed=3)
    found = METHODS["lc-lowrank"](**QUICK, **options).plan(model(), task, Resources(input_shapes=SHAPES))
    losses = [p.compressed_loss for p in found.training.points]
    assert ranks(found)
    assert all(e.kind == "low-rank" for e in found.weights.values())
    assert len(losses) == 6


def test_training_wins_back_what_a_low_rank_costs() -> None:
    fixtures = Path(__file__).parents[2] / "fixtures"
    result = onnxcompress.compress(
        fixtures / "digits_cnn.onnx",
        method="lc-lowrank",
        data=fixtures / "digits.npz",
        rank=3,
        steps=4,
        epochs=3.0,
        lr=0.005,
    )
    points = result.run.methods[0].training.points
    assert min(p.compressed_loss for p in points[1:]) < 0.9 * points[0].compressed_loss
    assert result.run.models[1].macs < 0.2 * result.run.models[0].macs
