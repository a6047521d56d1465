"""Half of the channels of every fixture: cut, proven and written, or refused with a reason."""

from pathlib import Path

import pytest

from onnxcompress import api
from onnxcompress.core.errors import NothingChangedError

FIXTURES = sorted((Path(__file__).parents[2] / "fixtures").glob("*.onnx"))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda p: p.stem)
def test_half_of_the_channels(path):
    try:
        result = api.compress(path, method="magnitude", keep=0.5, benchmark=False)
    except NothingChangedError as refusal:
        why = refusal.why
    else:
        (cuts,) = result.run.cuts
        assert any(group.kept < group.of for group in cuts.groups)
        assert cuts.proof.float64_error <= 1e-9
        assert cuts.proof.ort_error <= 1e-4
        return
    assert why
