"""Entries that several weights share are in the file once, and are told, and weighed, once."""

import sys
from pathlib import Path

import onnx
import pytest

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
