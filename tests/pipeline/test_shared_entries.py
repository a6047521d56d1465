"""Sizes of weights that a report tells are those in the file; entries that several share are there once."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parents[1] / "encodings"))
from small import packed_bytes

import onnxcompress
from onnxcompress.pipeline.inspection import inspect

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
JOINT = {"method": "lc-quant", "codebook": "trellis", "joint": True, "bits": 2, "benchmark": False}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("joint") / "small.onnx"
    return onnxcompress.compress(FIXTURES / "digits_cnn.onnx", output=path, **JOINT)


def test_sizes_of_weights_are_the_bytes_in_the_file(made):
    stored = 8 * packed_bytes(onnx.load(made.path))
    told = sum(weight.bits_after for weight in made.run.weights)
    assert stored - 64 <= told <= stored  # bits that fill up the stream's last bytes are nobody's
    seen = inspect(made.path, groups=False).weights
    assert sum(w.bits_after for w in seen if w.encoding == "trellis") == told


def test_a_small_weight_that_adds_few_bytes_is_compressed_along(made):
    """576 bytes, of which 40 are left; entries of its own alone would take 512."""
    sizes = {weight.name: weight.bits_after for weight in made.run.weights}
    assert sizes["conv1.weight"] in (2 * 144, 2 * 144 + 32)  # the largest scale is 1 and not stored
    assert not any(refusal.where == "conv1.weight" for refusal in made.run.refusals)


def test_nor_are_they_told_twice_where_the_operator_set_is_raised():
    old = onnx.load(FIXTURES / "digits_mlp.onnx")
    old.opset_import[0].version = 9
    made = onnxcompress.compress(old, **JOINT)
    stored = 8 * packed_bytes(made.model)
    assert stored - 64 <= sum(weight.bits_after for weight in made.run.weights) <= stored


def test_a_weight_that_is_stored_whole_is_told_as_that():
    """Its name makes the nodes that would decode it longer than what they save."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w" * 40], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 36])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(np.random.default_rng(0).normal(size=(36, 3)).astype("f"), "w" * 40)],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    run = onnxcompress.compress(model, method="lc-quant", bits=3, benchmark=False).run
    (weight,) = run.weights
    assert "packed it would take more bytes" in run.refusals[0].why
    assert (weight.encoding, weight.bits_after) == ("dense", 32 * 36 * 3)
