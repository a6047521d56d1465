"""A plan that cuts, carried out by the pipeline: what is written, what is told, what stops it."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import helper, numpy_helper, parser
from text_graphs import model_of

import onnxcompress
from onnxcompress import pipeline, report, surgery
from onnxcompress.core.errors import NothingChangedError, UnsupportedError, VerificationError
from onnxcompress.core.plan import Plan
from onnxcompress.core.run import Run
from onnxcompress.encodings.codebook import AdaptiveCodebook
from onnxcompress.encodings.dense import Dense
from onnxcompress.engine.channels import analyse, site_key
from onnxcompress.methods._base import Method, Needs
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.methods.vib import Vib
from onnxcompress.recipe import Recipe

BODY = "h = Gemm (x, a, ab) r = Relu (h) k = Gemm (r, b, bb) s = Relu (k) y = Gemm (s, c, cb)"
SHAPES = {"a": (6, 8), "ab": (8,), "b": (8, 8), "bb": (8,), "c": (8, 3), "cb": (3,)}


def network(shared_bias=False):
    body = BODY.replace("bb", "ab") if shared_bias else BODY
    text = f'<ir_version: 8, opset_import: ["": 17]> g (float[N, 6] x) => (float[N, 3] y) {{ {body} }}'
    proto = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        if name != "bb" or not shared_bias:
            array = rng.standard_normal(shape).astype(np.float32)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@dataclass(frozen=True)
class Cutting(Method):
    """Drops the first channels of every free group; trains, encodes or folds on request."""

    name: ClassVar[str] = "cutting"
    source: ClassVar[str] = "test"
    needs: ClassVar[Needs] = Needs.NOTHING
    summary: ClassVar[str] = "test"
    drop: int = 2
    values: dict = field(default_factory=dict)
    encode: bool = False
    fold: float = 0.0

    def plan(self, model, task, resources):
        channels = analyse(model, resources.input_shapes)
        keep = {g.name: np.arange(g.size) >= self.drop for g in channels.free}
        weights = {}
        if self.encode:
            (weights["b"],) = AdaptiveCodebook(4).project([model.array("b")])
        constants = {}
        if self.fold:
            sites = [s for g in channels.free for s in g.sites]
            constants = {site_key(s): np.full(len(s.channel_of), self.fold) for s in sites}
        values = {name: Dense(np.asarray(array, np.float32)) for name, array in self.values.items()}
        return Plan(weights=weights, values=values, keep=keep, constants=constants)


def compressed(tmp_path, *methods, proto=None):
    path = tmp_path / "out.onnx"
    recipe = Recipe(methods=methods)
    run = pipeline.compress(
        pipeline.Request(proto or network(), recipe, output=path, overwrite=True, benchmark=False)
    )
    return run, onnx.load(path)


def shapes_of(model):
    return {t.name: tuple(t.dims) for t in model.graph.initializer}


def test_what_was_cut_is_written_and_told(tmp_path):
    run, model = compressed(tmp_path, Cutting())
    assert shapes_of(model) == {"a": (6, 6), "ab": (6,), "b": (6, 6), "bb": (6,), "c": (6, 3), "cb": (3,)}
    (cut,) = run.cuts
    assert [(g.kept, g.of, g.mixed) for g in cut.groups] == [(6, 8, False)] * 2
    assert (cut.parameters_before, cut.parameters_after) == (155, 105)
    assert (cut.macs_before, cut.macs_after) == (48 + 64 + 24, 36 + 36 + 18)
    assert (run.models[1].parameters, run.models[1].macs) == (105, 90)
    assert cut.proof.float64_error < 1e-13
    assert cut.proof.sizes == 2
    told = {w.name: (w.shape, w.shape_after, w.relative_error) for w in run.weights}
    assert told["b"] == ((8, 8), (6, 6), None)
    assert "cb" not in told, "nothing happened to it"
    assert Run.from_json(run.to_json()) == run


def test_methods_one_after_the_other(tmp_path):
    run, model = compressed(tmp_path, Cutting(drop=1), Cutting(drop=2, encode=True))
    assert [[g.of for g in cut.groups] for cut in run.cuts] == [[8, 8], [7, 7]]
    assert shapes_of(model)["a"] == (6, 5)
    (b,) = [numpy_helper.to_array(t) for t in model.graph.initializer if t.name == "b"]
    assert len(np.unique(b)) == 4 < b.size
    # The nodes of a codebook would outweigh so few codes: what is told is what the file holds.
    assert next(w for w in run.weights if w.name == "b").encoding == "dense"
    assert run.comparisons[1].passed, "the file is what torch computes"


def test_trained_values_are_cut_with_the_rest(tmp_path):
    _, model = compressed(tmp_path, Cutting(values={"ab": np.arange(8)}))
    (bias,) = [t for t in model.graph.initializer if t.name == "ab"]
    np.testing.assert_array_equal(numpy_helper.to_array(bias), np.arange(2, 8))


def test_a_trained_bias_that_layers_share(tmp_path):
    _, model = compressed(tmp_path, Cutting(values={"ab": np.arange(8)}), proto=network(shared_bias=True))
    biases = [numpy_helper.to_array(t) for t in model.graph.initializer if t.dims == [6]]
    assert len(biases) == 1
    np.testing.assert_array_equal(biases[0], np.arange(2, 8))
    # A second cut finds the bias shared again, in the encodings of what training left dense.
    _, model = compressed(
        tmp_path, Cutting(values={"ab": np.arange(8)}), Cutting(drop=1), proto=network(shared_bias=True)
    )
    assert shapes_of(model)["a"] == (6, 5)


def test_constants_are_folded_and_counted(tmp_path):
    run, _ = compressed(tmp_path, Cutting(fold=0.5))
    assert run.cuts[0].folded == 2


def test_a_cut_alone_is_a_change_and_none_is_none(tmp_path):
    with pytest.raises(NothingChangedError):
        compressed(tmp_path, Cutting(drop=0))


def test_a_cut_that_is_not_what_was_decided_writes_nothing(tmp_path, monkeypatch):
    right = surgery.cut

    def wrong(channels, keep, constants=None):
        result = right(channels, keep, constants)
        array = np.roll(result.model.array("ab"), 1)
        object.__setattr__(result, "model", result.model.with_encodings({"ab": Dense(array)}, "sabotage"))
        return result

    monkeypatch.setattr(surgery, "cut", wrong)
    with pytest.raises(VerificationError) as raised:
        compressed(tmp_path, Cutting())
    assert raised.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_widths_that_are_slow_are_warned_of(tmp_path):
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[1, 3, 5, 5] x) => (float[1, 4, 5, 5] y)'
        " { h = Conv (x, a) r = Relu (h) y = Conv (r, b) }"
    )
    rng = np.random.default_rng(0)
    for name, shape in {"a": (8, 3, 1, 1), "b": (4, 8, 1, 1)}.items():
        proto.graph.initializer.append(
            helper.make_tensor(name, 1, shape, rng.standard_normal(np.prod(shape)).astype(np.float32))
        )
    run, _ = compressed(tmp_path, Cutting(drop=1), proto=proto)
    assert any("multiple of 4" in warning for warning in run.warnings)
    run, _ = compressed(tmp_path, Cutting(drop=4), proto=proto)
    assert not any("multiple of 4" in warning for warning in run.warnings)


@pytest.mark.parametrize(("block", "told"), [(16, True), (1, False)])
@pytest.mark.parametrize("target", ["macs=0.7", "params=0.7", "macs=0.9,params=0.7"])
def test_a_target_that_blocks_overshoot_is_told(block, target, told):
    """One group of 32: the next block leaves half of it."""
    rng = np.random.default_rng(0)
    proto = parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3, 8, 8] x) => (float[N, 5, 8, 8] y) '
        "{ h = Conv (x, a) r = Relu (h) y = Conv (r, b) }"
    )
    for name, shape in (("a", (32, 3, 1, 1)), ("b", (5, 32, 1, 1))):
        proto.graph.initializer.append(
            numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        )
    method = Vib if "," in target else Magnitude
    more = {"epochs": 1.0, "after": 0.0} if method is Vib else {}
    data = {"random": True, "limit": 40} if method is Vib else {}
    recipe = Recipe((method(target=target, round_to=block, **more),), data, 0)
    run = pipeline.compress(pipeline.Request(source=proto, recipe=recipe, output=None, benchmark=False))
    shares = [run.cuts[0].macs_after / run.cuts[0].macs_before]
    shares.append(run.cuts[0].parameters_after / run.cuts[0].parameters_before)
    assert (min(shares) <= 0.63) == told
    assert any("widths come in blocks of 16" in w and "0.5 of the" in w for w in run.warnings) == told


def test_a_decision_made_of_rounding_errors_loosens_no_proof():
    """A threshold on rounding errors is another in float64: more than it differs by must not be allowed."""
    model = model_of(
        f"{BODY} t = Mul (y, three) u = Div (t, three) d = Sub (u, y) p = Greater (d, zero) "
        "z = Cast <to = 1> (p)",
        "float[N, 6] x",
        "float[N, 3] y, float[N, 3] z",
        {**SHAPES, "three": np.array(3, np.float32), "zero": np.array(0, np.float32)},
    )
    run = onnxcompress.compress(model.ir, method="magnitude", keep=0.5, round_to=1).run
    (cut,) = run.cuts
    assert cut.proof.ort_tolerance < 0.01
    assert "Rounding alone turns these outputs" not in report.render(run, "markdown")
    drowned = replace(run, cuts=(replace(cut, proof=replace(cut.proof, drowned_outputs=("z",))),))
    assert "Rounding alone turns these outputs" in report.render(drowned, "markdown")


def test_a_newer_format_is_told(tmp_path):
    """A file of IR version 3 lists its weights as inputs; one whose weights were cut is of version 4."""
    proto = network()
    proto.ir_version = 3
    proto.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in proto.graph.initializer
    )
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", 9))
    done = onnxcompress.compress(proto, method="magnitude", keep=0.5, round_to=1)
    assert (done.model.ir_version, [i.name for i in done.model.graph.input]) == (4, ["x"])
    assert any("IR version 4 now, not 3" in warning for warning in done.run.warnings)
    same = onnxcompress.compress(network(), method="magnitude", keep=0.5, round_to=1)
    assert not any("IR version" in warning for warning in same.run.warnings)


def test_what_is_in_few_bits_already_is_told():
    x = {"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)}
    eight = onnxcompress.compress(network(), method="int8", way="static", data=x).model
    with pytest.raises(
        NothingChangedError, match="3 of its tensors hold whole numbers of at most 8 bits already"
    ):
        onnxcompress.compress(eight, method="lc-quant", bits=4)


def test_channels_that_come_out_of_a_loop_are_told_by_its_name():
    body = (
        "h = Loop (count, yes, x) <body = steps (int64 i, bool go, float[N, 6] s) => "
        "(bool more, float[N, 6] t) { more = Identity (go) t = Tanh (s) }> r = Relu (h) y = MatMul (r, w)"
    )
    weights = {"count": np.array(2, np.int64), "yes": np.array(True), "w": (6, 64)}
    model = model_of(body, "float[N, 6] x", "float[N, 64] y", weights)
    with pytest.raises(NothingChangedError, match=r"no layer makes but Loop '.*', through which"):
        onnxcompress.compress(model.ir, method="magnitude", keep=0.5)


def test_a_cut_of_an_eight_bit_model_leaves_its_weights_in_eight_bits():
    x = {"x": np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)}
    eight = onnxcompress.compress(network(), method="int8", way="static", data=x).model
    cut = onnxcompress.compress(eight, method="magnitude", keep=0.5, round_to=1).model
    for model in (eight, cut):
        kinds = {t.name: t.data_type for t in model.graph.initializer if len(t.dims) == 2}
        assert len(kinds) == 3
        assert set(kinds.values()) == {onnx.TensorProto.INT8}


def calling():
    """Return the network with its first activation in a function of the model."""
    proto = network()
    body = [helper.make_node("Relu", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("own", "Positive", ["a"], ["b"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("own", 1))
    node = next(n for n in proto.graph.node if n.output[0] == "r")
    node.op_type, node.domain = "Positive", "own"
    node = next(n for n in proto.graph.node if n.output[0] == "s")
    node.op_type, node.domain = "Positive", "own"
    return proto


@pytest.mark.parametrize("options", [{"keep": 0.5}, {"target": "macs=0.5"}])
def test_calls_of_functions_are_told_with_what_to_do(options):
    with pytest.raises((NothingChangedError, UnsupportedError), match=r"used by own\.Positive") as caught:
        onnxcompress.compress(calling(), method="magnitude", benchmark=False, **options)
    assert "onnx.inliner.inline_local_functions" in caught.value.fix
    inlined = onnx.inliner.inline_local_functions(calling())
    assert onnxcompress.compress(inlined, method="magnitude", benchmark=False, **options).run.cuts
