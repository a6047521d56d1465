"""Detectors that hand out what TopK or NonMaxSuppression selected: trained by what that was selected from."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from text_graphs import proto_of

import onnxcompress
from onnxcompress import exporter
from onnxcompress.core.errors import VerificationError
from onnxcompress.engine.damage import Yardstick
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.runtime import open_session
from onnxcompress.pipeline import _told as told
from onnxcompress.pipeline._original import open_original

RAW = (
    "h = MatMul (x, w) r = Relu (h) g = MatMul (r, u) b = Reshape (g, boxes) "
    "f = MatMul (r, v) s = Sigmoid (f) "
)
BEST = RAW + (
    "t, i = TopK <axis = 1> (s, k) j = Unsqueeze (i, two) e = Expand (j, wide) "
    "o = GatherElements <axis = 1> (b, e) c = Mod (i, three)"
)
RNG = np.random.default_rng(3)
WEIGHTS = {
    "w": (6, 48), "u": (48, 80), "v": (48, 20), "boxes": np.array([-1, 20, 4]), "k": np.array([8]),
    "two": np.array([2]), "wide": np.array([1, 1, 4]), "three": np.array(3),
}  # fmt: skip
ROWS = RNG.normal(size=(80, 6)).astype(np.float32)
OUTPUTS = "float[N, 8, 4] o, float[N, 8] t, int64[N, 8] c"


def best():
    """Return a detector that gives the eight best of twenty boxes, their scores and classes."""
    return proto_of(BEST, "float[N, 6] x", OUTPUTS, WEIGHTS)


def raw():
    """Return the same with all boxes and their scores."""
    names = ("w", "u", "v", "boxes")
    return proto_of(RAW, "float[N, 6] x", "float[N, 20, 4] b, float[N, 20] s", {n: WEIGHTS[n] for n in names})


def suppressed():
    """Return the same with the boxes that NonMaxSuppression leaves, of one picture."""
    proto = raw()
    nodes = [
        helper.make_node("Unsqueeze", ["s", "axis"], ["l"]),
        helper.make_node("NonMaxSuppression", ["b", "l", "many", "overlap", "least"], ["n"]),
        helper.make_node("Gather", ["n", "places"], ["p"], axis=1),
        helper.make_node("GatherND", ["b", "p"], ["o"]),
        helper.make_node("GatherND", ["l", "n"], ["t"]),
    ]
    constants = {
        "axis": np.array([1]), "many": np.array([20]), "overlap": np.array([0.3], np.float32),
        "least": np.array([0.5], np.float32), "places": np.array([0, 2]),
    }  # fmt: skip
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in constants.items())
    del proto.graph.output[:]
    proto.graph.output.extend([
        helper.make_tensor_value_info("o", TensorProto.FLOAT, ["K", 4]),
        helper.make_tensor_value_info("t", TensorProto.FLOAT, ["K"]),
    ])  # fmt: skip
    return proto


def trained(proto, **options):
    return onnxcompress.compress(
        proto, method="lc-quant", data={"x": ROWS}, benchmark=False, bits=2, steps=2, **options
    )


@pytest.mark.parametrize(("made", "outputs"), [(best, ["o", "t", "c"]), (suppressed, ["o", "t"])])
def test_it_is_trained_as_the_one_that_gives_everything(made, outputs):
    wanted, found = trained(raw()), trained(made())
    losses = [[p.compressed_loss for p in r.run.methods[-1].training.points] for r in (wanted, found)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert [o.name for o in found.model.graph.output] == outputs
    assert any("what a decision selects" in w for w in found.run.warnings)
    original, believed = found.run.comparisons
    assert believed.passed
    assert {o.name for o in original.outputs} == {*outputs, "b", "s" if made is best else "l"}
    assert next(o for o in original.outputs if o.name == "t").top1_agreement is None, "sorted, not classes"


def test_trained_by_what_was_selected_it_becomes_another(monkeypatch):
    wanted = trained(best())
    opened = onnxcompress.pipeline._original.open_original
    monkeypatch.setattr(
        onnxcompress.pipeline._original,
        "open_original",
        lambda *args: replace(opened(*args), decided=frozenset()),
    )
    other = trained(best())
    losses = [r.run.methods[-1].training.points[-1].compressed_loss for r in (wanted, other)]
    assert losses[1] != pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("made", [best, suppressed])
def test_8_bits_may_turn_a_decision_around(made):
    run = onnxcompress.compress(made(), method="int8", data={"x": ROWS}, benchmark=False).run
    _, believed = run.comparisons
    assert believed.passed
    errors = {o.name: o.relative_l2 for o in run.comparisons[0].outputs}
    assert errors["b"] < 0.05


@pytest.mark.parametrize("wrong", ["table", "c"])
def test_what_is_looked_up_in_weights_is_proven_where_these_change(monkeypatch, wrong):
    """Nothing but the output itself says what such a table holds."""
    body = "h = MatMul (x, w) r = Relu (h) s = MatMul (r, v) i = ArgMax <axis = 1, keepdims = 0> (s) "
    body += "y = Gather (table, i) c = Identity (i)"
    weights = {"w": (6, 48), "v": (48, 20), "table": (20, 50)}
    proto = proto_of(body, "float[N, 6] x", "float[N, 50] y, int64[N] c", weights)
    written = exporter.dense_bytes

    def sabotaged(model):
        found = onnx.load_from_string(written(model))
        if model.encodings:
            where = {"table": "table", "c": "v"}[wrong]
            tensor = next(t for t in found.graph.initializer if t.name == where)
            tensor.CopyFrom(onnx.numpy_helper.from_array(1.1 * onnx.numpy_helper.to_array(tensor), where))
        return found.SerializeToString()

    monkeypatch.setattr(exporter, "dense_bytes", sabotaged)
    with pytest.raises(VerificationError, match="output 'y'" if wrong == "table" else "output 's'"):
        onnxcompress.compress(proto, method="lc-quant", bits=4, mode="dc", benchmark=False)


def test_what_a_decision_selects_is_told_in_the_right_number():
    opened = open_original(best(), 1)
    assert opened.scores == ("b", "s")
    assert opened.decided == {"o", "t", "c"}
    first, second = told.scores_told(opened)
    assert first.startswith("'o' and 't' hold what a decision selects")
    assert "'b' and 's', which do, are trained towards" in second
    one = open_original(proto_of(BEST, "float[N, 6] x", "float[N, 8] t", WEIGHTS), 1)
    first, second = told.scores_told(one)
    assert first.startswith("'t' holds what")
    assert "'s', which does, is trained towards" in second


def test_where_everything_is_there_nothing_is_shown():
    outputs = f"{OUTPUTS}, float[N, 20, 4] b, float[N, 20] s"
    opened = open_original(proto_of(BEST, "float[N, 6] x", outputs, WEIGHTS), 1)
    assert opened.scores == ()
    assert opened.decided == {"o", "t"}
    assert open_original(raw(), 1).decided == frozenset()


def test_what_is_left_out_is_not_computed_and_all_else_is_the_same():
    opened = open_original(best(), 1)
    graph = TorchGraph(opened.model)
    feed = {"x": ROWS[:3]}
    expected = graph.run(feed)
    seen = []
    graph.hooks["e"] = lambda value: seen.append("e") or value
    graph.hooks["r"] = lambda value: seen.append("r") or value
    graph.leave_out(opened.decided)
    found = graph.run(feed)
    assert (list(found), seen) == (["b", "s"], ["r"])
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name])
    graph.leave_out(())
    assert list(graph.run(feed)) == list(expected)
    graph.leave_out(("b", *opened.decided))
    assert list(graph.run(feed)) == ["s"]
    assert "r" in seen
    # A weight that nothing reads any more would have no place in what looks at every weight.
    assert any("u" in (graph._program.names[s] for s in step.inputs) for step in graph._program.main.steps)
    assert not graph._idle


def test_damage_is_not_measured_by_decisions():
    opened = open_original(best(), 1)
    run = open_session(opened.witness).run
    yardstick = Yardstick(run, [{"x": ROWS[:1]}], without=opened.decided)
    assert yardstick.outputs == ("b", "s")

    def turned(feed):
        return {name: v[:, ::-1] if name in opened.decided else v for name, v in run(feed).items()}

    assert yardstick.measure(turned).relative_l2() == 0
    assert Yardstick(run, [{"x": ROWS[:1]}]).measure(turned).relative_l2() > 0.1


@pytest.mark.parametrize("sabotage", ["TopK", "Mod", "GatherElements"])
def test_a_decision_that_is_written_wrongly_is_no_rounding(monkeypatch, sabotage) -> None:
    """Scores and boxes are right: what is made of them must be so, too."""
    write = exporter.dense_bytes

    def wrong(model):
        proto = onnx.load_from_string(write(model))
        place, node = next((k, n) for k, n in enumerate(proto.graph.node) if n.op_type == sabotage)
        if not model.encodings:
            return proto.SerializeToString()
        if sabotage == "TopK":
            node.attribute.append(helper.make_attribute("largest", 0))
        elif sabotage == "Mod":
            node.op_type = "Add"
        else:
            node.input[0] = "turned"
            proto.graph.node.insert(place, helper.make_node("Neg", ["b"], ["turned"]))
        return proto.SerializeToString()

    options = {"method": "lc-quant", "bits": 8, "mode": "dc", "data": {"x": ROWS}, "benchmark": False}
    assert onnxcompress.compress(best(), **options).run.comparisons[1].passed
    monkeypatch.setattr(exporter, "dense_bytes", wrong)
    with pytest.raises(VerificationError, match="does not compute what the method decided"):
        onnxcompress.compress(best(), **options)
