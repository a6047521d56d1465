"""What a squared error of a low rank costs in the outputs, against the change of the outputs themselves."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.core.resources import Resources
from onnxcompress.core.task import Task
from onnxcompress.csteps.lowrank import decompose
from onnxcompress.encodings._layout import layouts_of
from onnxcompress.encodings._ranks import stored
from onnxcompress.encodings.lowrank import LearnedRank
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.proto import from_proto
from onnxcompress.engine.rank_damage import judged
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.engine.training.signs import signed_sum

NAMES = ("w1", "w2")
RESOURCES = Resources(input_shapes={"x": (1, 24)})


def weights(scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    first = rng.normal(size=(24, 20)) @ np.diag(0.8 ** np.arange(20)) / 4
    second = rng.normal(size=(20, 6)) / 4
    return {"w1": first * scale, "w2": second / scale}


def model(scale: float = 1.0, activation: str = "Relu") -> Model:
    tensors = [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights(scale).items()]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], "first"),
        helper.make_node(activation, ["a"], ["b"], "between"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 24))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 6))],
        tensors,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)
    return Model(from_proto(proto), Source(None, "0", 0))


def inputs(count: int = 600) -> np.ndarray:
    rng = np.random.default_rng(3)
    return (rng.normal(size=(count, 24)) @ np.diag(np.linspace(0.2, 2, 24))).astype(np.float32)


def task() -> Task:
    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 24))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 6))
    rows = [{"x": row[None]} for row in inputs()]
    return make_task(open_data(rows, [info], outputs=[out]), seed=3)


def projection(**settings: float) -> LearnedRank:
    shapes = [a.shape for a in weights().values()]
    options = tuple(stored(shape, layouts_of(2)) for shape in shapes)
    return LearnedRank(options=options, **(settings or {"keep": 0.5}))  # type: ignore[arg-type]


def damages(found: LearnedRank) -> list[np.ndarray]:
    told = [options.ways[0].damage for options in found.options]
    assert all(damage is not None for damage in told)
    return [np.array(damage) for damage in told]


def test_it_is_the_change_of_the_outputs_that_a_small_error_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """‖y(W + t δ_r) − y(W)‖² / t² for small t, of all ranks and both weights on one scale."""
    monkeypatch.setattr("onnxcompress.engine.rank_damage.DRAWS", 600)
    found = damages(judged(projection(), NAMES, model(), task(), RESOURCES))
    x, arrays = inputs().astype(np.float64), weights()

    def outputs(**changed: np.ndarray) -> np.ndarray:
        w = {**arrays, **changed}
        return np.maximum(x @ w["w1"], 0) @ w["w2"]

    ratios = []
    for name, damage in zip(NAMES, found, strict=True):
        parts = decompose(arrays[name])
        for rank in (1, 2, 4):
            left, right = parts.truncated(rank)
            lost = arrays[name] - left @ right
            moved = (outputs(**{name: arrays[name] - 1e-4 * lost}) - outputs()) / 1e-4
            # Each output tensor is divided by one deviation.
            relative = np.square(moved).sum() / np.var(outputs())
            ratios.append(damage[rank] * np.square(lost).sum() / relative)
    ratios = np.array(ratios) / np.mean(ratios)
    assert np.all(np.abs(ratios - 1) < 0.2), ratios


def test_scaling_one_layer_and_the_next_back_changes_no_rank() -> None:
    ranks = []
    for scale in (1.0, 100.0):
        found = judged(projection(), NAMES, model(scale), task(), RESOURCES)
        arrays = [a.astype(np.float32) for a in weights(scale).values()]
        ranks.append([getattr(e, "rank", None) for e in found.project(arrays)])
    assert ranks[0] == ranks[1]


def test_where_nothing_can_tell_the_projection_stays_as_it_is() -> None:
    given, known = projection(), task()
    assert judged(given, NAMES, model(), None, RESOURCES) is given
    assert judged(given, NAMES, model(), replace(known, random=True), RESOURCES) is given
    price = projection(alpha=1e-3)
    assert judged(price, NAMES, model(), known, RESOURCES) is price
    stepped = judged(given, NAMES, model(activation="Sign"), known, RESOURCES)
    assert stepped is given, "no gradient reaches the first weight"


def test_what_does_not_fit_into_memory_is_looked_at_at_fewer_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(a.size for a in weights().values())
    full = damages(judged(projection(), NAMES, model(), task(), RESOURCES))
    monkeypatch.setattr("onnxcompress.engine.rank_damage._MOST_ENTRIES", 3 * size)
    fewer = damages(judged(projection(), NAMES, model(), task(), RESOURCES))
    assert not np.array_equal(full[0], fewer[0])
    assert np.all(np.abs(np.log(full[0][1:9] / fewer[0][1:9])) < 0.7)
    monkeypatch.setattr("onnxcompress.engine.rank_damage._MOST_ENTRIES", size)
    given = projection()
    assert judged(given, NAMES, model(), task(), RESOURCES) is given


def test_damage_that_chooses_worse_ranks_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct compression on training examples decides: here everything is said to depend on one weight."""
    calls: list[int] = []

    def nonsense(changes, squares: np.ndarray) -> tuple[float, ...]:
        calls.append(1)
        return (1e9 if len(calls) == 1 else 1e-9,) * changes.count

    monkeypatch.setattr("onnxcompress.engine.rank_damage._cost", nonsense)
    given = projection(keep=0.4)
    assert judged(given, NAMES, model(), task(), RESOURCES) is given
    assert len(calls) == 2


def test_large_networks_are_looked_at_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(outputs, variance, rng):
        calls.append(1)
        return signed_sum(outputs, variance, rng)

    monkeypatch.setattr("onnxcompress.engine.training.signs.signed_sum", counted)
    monkeypatch.setattr("onnxcompress.engine.rank_damage.LEAST_DRAWS", 3)
    monkeypatch.setattr("onnxcompress.engine.rank_damage.MOST_WORK", 20 * 2 * (24 * 20 + 20 * 6))
    for _ in range(2):
        judged(projection(), NAMES, model(), task(), RESOURCES)
        monkeypatch.setattr("onnxcompress.engine.rank_damage.MOST_WORK", 1.0)
    assert len(calls) == 20 + 3
