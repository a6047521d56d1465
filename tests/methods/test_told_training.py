"""What every method that trains says of how the examples were shown."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import conv_net

import onnxcompress

SHOWN, DISTURBED = "pictures shown shifted", "shown with noise"


def told(method, *, labelled=False, **options):
    """Train a network that takes means over smooth pictures, and so hardly notices shifts."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3, 2, 2)).astype(np.float32).repeat(4, 2).repeat(4, 3)
    data = {"x": x, "label": rng.integers(0, 5, 120)} if labelled else {"x": x}
    made = onnxcompress.compress(conv_net().ir, method=method, data=data, **options)
    return made.run.methods[-1].training.data


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("vib", {"target": "macs=0.7", "epochs": 1.0, "after": 0.5}),
        (["magnitude", "finetune"], {"keep": 0.5, "epochs": 1.0}),
        ("lc-quant", {"bits": 2, "steps": 1, "epochs": 0.5, "mix": False}),
    ],
)
def test_pictures_that_were_shown_shifted_are_told(method, options, augment):
    data = told(method, **options, augment=augment)
    assert (SHOWN in data) == augment
    assert DISTURBED not in data


@pytest.mark.parametrize("noise", [0.05, 0.0])
def test_noise_is_told(noise):
    options = {"bits": 2, "steps": 1, "epochs": 0.5, "augment": False}
    assert (DISTURBED in told("lc-quant", labelled=True, noise=noise, **options)) == (noise > 0)
