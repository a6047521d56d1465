"""Weights that a file holds as sparse tensors (COO): counted as they are stored, and never stored larger."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from text_graphs import proto_of

import onnxcompress
from onnxcompress import pipeline
from onnxcompress.core.errors import NothingChangedError
from onnxcompress.engine import runtime

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 40)).astype(np.float32)


def mostly_zero(shape, share=0.02):
    """Return a matrix with a few numbers other than zero, none of them in the last quarter of the columns."""
    array = np.where(RNG.random(shape) < share, RNG.normal(size=shape), 0).astype(np.float32)
    array[:, -(shape[1] // 4) :] = 0
    return array


W, U = mostly_zero((40, 64)), mostly_zero((64, 40), 0.05)


def sparse_tensor(name, array):
    found = np.flatnonzero(array)
    values = numpy_helper.from_array(array.reshape(-1)[found], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(found), array.shape)


def network(w=W, u=U, *, sparse=True, constant=False):
    """Two products; the zero columns of the first weight make channels that nothing would miss."""
    proto = proto_of(
        "h = MatMul (x, w) r = Relu (h) y = MatMul (r, u)", "float[N, 40] x", "float[N, 40] y", {}
    )
    for name, array in (("w", w), ("u", u)):
        if constant:
            node = helper.make_node("Constant", [], [name], sparse_value=sparse_tensor("", array))
            proto.graph.node.insert(0, node)
        elif sparse:
            proto.graph.sparse_initializer.append(sparse_tensor(name, array))
        else:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


def answers(model):
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(model)
    return runtime.open_session(proto.SerializeToString()).run({"x": X})["y"]


def compressed(proto, method, **options):
    return onnxcompress.compress(proto, method=method, benchmark=False, **options)


@pytest.mark.parametrize("constant", [False, True])
def test_what_is_cut_stays_sparse(constant):
    proto = network(constant=constant)
    result = compressed(proto, "dead")
    before, after = result.run.models
    assert after.size_bytes < before.size_bytes
    np.testing.assert_allclose(answers(result.model), answers(proto), rtol=1e-5, atol=1e-6)
    # Negative control: dense weights are cut as well, and stay dense.
    dense = compressed(network(sparse=False), "dead")
    assert not dense.model.graph.sparse_initializer
    assert dense.run.models[1].size_bytes > 5 * after.size_bytes
    np.testing.assert_array_equal(answers(dense.model), answers(result.model))


def test_bits_are_those_of_the_file():
    result = compressed(network(), "dead")
    stored = {t.values.name: t for t in result.model.graph.sparse_initializer}
    for told in result.run.weights:
        array = {"w": W, "u": U}[told.name]
        assert told.bits_before == np.count_nonzero(array) * 8 * (4 + 8)
        tensors = (stored[told.name].values, stored[told.name].indices)
        assert told.bits_after == 8 * sum(numpy_helper.to_array(t).nbytes for t in tensors)
        assert told.bits_after < told.bits_before
    assert stored.keys() == {w.name for w in result.run.weights} == {"w", "u"}
    dense = {w.name: w for w in compressed(network(sparse=False), "dead").run.weights}
    assert dense["w"].bits_before == W.size * 32


@pytest.mark.parametrize("method", ["half", "lc-quant"])
def test_no_weight_is_stored_larger_than_it_was(method):
    with pytest.raises(NothingChangedError, match="would not get smaller"):
        compressed(network(), method)
    assert {w.name for w in compressed(network(sparse=False), method).run.weights} == {"w", "u"}


@pytest.mark.parametrize("options", [("magnitude", {"granularity": "weight"}), ("lc-prune", {})])
def test_masks_are_weighed_against_indices(options):
    method, more = options
    result = compressed(network(), method, keep=0.02, **more)
    assert {w.name for w in result.run.weights} == {"u"}, "a mask of w takes more than its indices"
    before, after = result.run.models
    assert after.size_bytes < before.size_bytes
    (told,) = result.run.weights
    assert told.bits_before == np.count_nonzero(U) * 8 * (4 + 8)
    (refused,) = (r for r in result.run.refusals if r.where == "w")
    assert refused.why.startswith(f"would not get smaller: {np.count_nonzero(W) * 12} bytes now")


def test_half_takes_what_gets_smaller():
    full = RNG.normal(size=(64, 40)).astype(np.float32)
    full[0] = 0
    result = compressed(network(u=full), "half")
    assert {w.name for w in result.run.weights} == {"u"}, "indices of nearly all are more than the numbers"
    assert result.run.models[1].size_bytes < 0.3 * result.run.models[0].size_bytes
    (refused,) = (r for r in result.run.refusals if r.where == "w")
    assert refused.why == "would not get smaller"
    with pytest.raises(NothingChangedError, match="would not get smaller"):
        compressed(network(), "half")
    assert {w.name for w in compressed(network(sparse=False), "half").run.weights} == {"w", "u"}


def test_inspect_tells_what_is_stored(tmp_path):
    onnx.save(network(), tmp_path / "net.onnx")
    told = {w.name: w.bits_before for w in pipeline.inspect(tmp_path / "net.onnx").weights}
    assert told == {"w": np.count_nonzero(W) * 96, "u": np.count_nonzero(U) * 96}
    onnx.save(network(sparse=False), tmp_path / "net.onnx")
    told = {w.name: w.bits_before for w in pipeline.inspect(tmp_path / "net.onnx").weights}
    assert told == {"w": W.size * 32, "u": U.size * 32}
