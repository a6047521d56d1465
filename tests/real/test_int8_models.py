"""8-bit arithmetic on real models: what is written is what was decided, and close to the original."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UnsupportedError

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"

pytestmark = pytest.mark.real


def path(name):
    found = MODELS / f"{name}.onnx"
    if not found.exists():
        pytest.skip(f"{found.name} is not there")
    return found


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("cifar_cnn_tutorial", 0.05),  # operator set 10
        ("ultraface_rfb320_nopost", 0.1),  # operator set 9, weights listed as inputs, normalisation
        ("speech_recog", 0.2),
        ("lenet300_lc_reference", 0.05),  # products only
        ("dtln_2", 0.1),  # recurrent
        ("yunet_120x160", 0.2),
    ],
)
def test_random_inputs_survive(name, error):
    result = onnxcompress.compress(
        path(name), method="int8", random_data=True, data_options={"limit": 24}, calib_samples=16
    )
    cost, believed = result.run.comparisons
    assert believed.passed
    assert max(o.relative_l2 for o in cost.outputs if o.relative_l2 is not None) <= error
    assert result.run.models[1].size_bytes < 0.7 * result.run.models[0].size_bytes
    onnx.checker.check_model(result.model, full_check=True)


@pytest.mark.parametrize("name", ["fns_candy", "squeezenet_fp16", "silero_vad_v62"])
def test_what_cannot_be_quantised_is_told(name):
    with pytest.raises((UnsupportedError, NothingChangedError)) as told:
        onnxcompress.compress(
            path(name), method="int8", random_data=True, data_options={"limit": 4}, calib_samples=2
        )
    assert "internal" not in str(told.value)
    assert told.value.why


def test_accuracy_of_a_trained_classifier_stays():
    data = MODELS.parent / "data" / "cifar10_subset.npz"
    if not data.exists():
        pytest.skip("the data is not there")
    run = onnxcompress.compress(
        path("cifar_cnn_tutorial"), method="int8", data=str(data), limits={"max_drop": 0.005}
    ).run
    assert run.accuracy.after >= run.accuracy.before - 0.005
    assert run.gates[0].passed
