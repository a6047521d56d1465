"""Half of the channels of every fixture: cut, proven and written, or refused with a reason."""

from pathlib import Path

import pytest

from onnxcompress import api
from onnxcompress.core.errors import NothingChangedError

FIXTURES = Path(__file__).parents[2] / "fixtures"
NARROW = 64 * 32 + 32 * 64 + 64 * 10
"""Of 64 inputs, layers of 64 and 128, and 10 scores."""
MACS = {
    "constants": NARROW,
    "digits_cnn": 8 * 8 * 9 * (8 + 8 * 16) + 16 * 4 * 4 * 32 + 32 * 10,
    "digits_lstm": 8 * 4 * 16 * (8 + 16) + 16 * 10,  # 48 units: the multiple of 16 that is at most half
    "digits_mlp": 64 * 128 + 128 * 64 + 64 * 10,
    "embedding": 8 * 2,
    "external": NARROW,
    "fp16": NARROW,
    "ir3": NARROW,
}
"""Multiply-accumulates that are left, by hand."""
REFUSED = {
    "digits_function": "fc3.weight: is kept because it reaches the output 'scores'",
    "if": "choose.else_branch/fc2.weight (and 3 more): lies inside the body of an If, Loop or Scan",
}


def test_every_fixture_is_cut_or_refused():
    assert {path.stem for path in FIXTURES.glob("*.onnx")} == MACS.keys() | REFUSED.keys()


@pytest.mark.parametrize("name", MACS)
def test_half_of_the_channels(name):
    result = api.compress(FIXTURES / f"{name}.onnx", method="magnitude", keep=0.5, benchmark=False)
    assert result.run.models[1].macs == MACS[name]
    (cuts,) = result.run.cuts
    assert cuts.proof.float64_error <= 1e-9
    assert cuts.proof.ort_error <= 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_told(name):
    with pytest.raises(NothingChangedError) as refusal:
        api.compress(FIXTURES / f"{name}.onnx", method="magnitude", keep=0.5, benchmark=False)
    assert REFUSED[name] in refusal.value.why
