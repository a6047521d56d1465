"""Random networks are simplified and compute the same; a rule that is wrong does not pass the proof."""

import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "contracts"))
sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
import random_blocks
from random_nets import Drawn
from text_graphs import model_of

from onnxcompress.core.errors import VerificationError
from onnxcompress.core.model import Model, Source
from onnxcompress.core.simplification import Simplification
from onnxcompress.engine import runtime
from onnxcompress.engine.proto import to_proto
from onnxcompress.surgery import join_duplicates, simplify
from onnxcompress.surgery.lossless import passing, simplification
from onnxcompress.surgery.lossless.layer import Layer


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_random_networks_compute_the_same(data):
    net = random_blocks.grown(Drawn(data), data.draw(st.integers(2, 7), label="blocks"))
    model = Model(ir.from_proto(net.model()), Source(None, "", 0))
    shapes = {name: array.shape for name, array in net.feeds.items()}
    simple = simplify(model, Simplification(), shapes, method="lossless", seed=1).model
    simple = join_duplicates(simple, shapes, method="lossless", seed=1).model
    before, after = (
        runtime.open_session(to_proto(m.ir).SerializeToString()).run(net.feeds) for m in (model, simple)
    )
    for name, value in before.items():
        scale = max(1.0, float(np.abs(value).max(initial=0.0)))
        np.testing.assert_allclose(after[name], value, rtol=0, atol=2e-4 * scale)
    assert to_proto(simple.ir).ByteSize() <= to_proto(model.ir).ByteSize()
    again = simplify(simple, Simplification(), shapes, method="lossless", seed=1)
    assert again.facts is None, "a simplified graph holds nothing more to simplify"


BODY = "a = Conv (x, w, b) c = Mul (a, k) d = LeakyRelu (c) y = Identity (d)"
WEIGHTS = {"w": (5, 4, 3, 3), "b": (5,), "k": (1, 5, 1, 1)}


def small():
    return model_of(BODY, "float[N, 4, 6, 6] x", "float[N, 5, 4, 4] y", WEIGHTS)


def simplified():
    return simplify(small(), Simplification(), {"x": (1, 4, 6, 6)}, method="lossless", seed=0)


def test_a_weight_that_is_handed_on_as_it_is_can_be_compared():
    """A table of positions, of which as many are sliced off as the input is long: all of them."""
    body = """n = Shape <start = 1, end = 2> (x) p = Slice (w, zero, n, zero) a = Add (x, p)
    b = Mul (a, k) z = Identity (b) y = MatMul (z, v)"""
    weights = {"w": (5, 4), "zero": np.array([0]), "k": np.array(2, np.float32), "v": (4, 3)}
    model = model_of(body, "float[N, 5, 4] x", "float[N, 5, 3] y", weights)
    done = simplify(model, Simplification(), {"x": (2, 5, 4)}, method="lossless", seed=0)
    x = np.ones((2, 5, 4), np.float32)
    wanted = ((x + model.array("w")) * 2) @ model.array("v")
    found = runtime.open_session(to_proto(done.model.ir).SerializeToString()).run({"x": x})["y"]
    assert done.facts is not None
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_right_rules_pass():
    facts = simplified().facts
    assert {c.rule for c in facts.changes} == {"passing on", "scales and shifts"}
    assert facts.proof.bitwise
    assert facts.proof.sizes == 2
    assert facts.proof.float64_error < 1e-13
    assert facts.bytes_after < facts.bytes_before


def test_an_operator_that_does_not_pass_on_is_caught(monkeypatch):
    monkeypatch.setattr(
        passing, "_source", lambda work, node: node.inputs[0] if node.op_type == "LeakyRelu" else None
    )
    with pytest.raises(VerificationError, match="equal bit by bit"):
        simplified()


def test_weights_off_by_less_than_float32_shows_are_caught(monkeypatch):
    right = Layer.scaled_outputs

    def wrong(layer, scale):
        found = right(layer, scale).copy()
        found[0, 2, 1, 3] *= 1 + 1e-9
        return found

    monkeypatch.setattr(Layer, "scaled_outputs", wrong)
    with pytest.raises(VerificationError, match="rounding explains"):
        simplified()


def test_weights_that_are_stored_wrongly_are_caught(monkeypatch):
    """The float64 proof does not see what goes wrong when weights are stored; onnxruntime does."""
    right = Layer.store

    def wrong(layer, work, weights, bias, precise):
        return right(layer, work, weights if precise else weights * 1.01, bias, precise)

    monkeypatch.setattr(Layer, "store", wrong)
    with pytest.raises(VerificationError, match="in onnxruntime"):
        simplified()


def test_rules_end(monkeypatch):
    calls = []
    endless = simplification.Rule("endless", "nothing", lambda work: iter(calls.append(1) or ["again"]))
    monkeypatch.setattr(simplification, "RULES", (endless,))
    simplification._exact(
        simplification.Workpiece(small()), simplification._Tally(simplification.Workpiece(small()))
    )
    assert len(calls) == simplification.ROUNDS
