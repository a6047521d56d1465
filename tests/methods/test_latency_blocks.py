"""Latency targets of every method that cuts channels, on machines that compute 16 channels at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from pruning_models import conv_net, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.methods.lc_channels import LcChannels
from onnxcompress.methods.magnitude import Magnitude
from onnxcompress.methods.vib import Vib

SIZES = {"c1.w": 64, "c2.w": 48}
QUICK = {"steps": 2, "epochs": 0.5, "lr": 0.01, "augment": False, "mix": False}
METHODS = {
    "magnitude": lambda **options: Magnitude(scope="joint", **options),
    "lc-channels": lambda **options: LcChannels(scope="joint", **QUICK, **options),
    "vib": lambda **options: Vib(epochs=2.0, after=0.0, batch_size=16, **options),
}


def wide_net():
    """Return a network of whose second layer hardly more than four channels matter."""
    rng, (first, second) = np.random.default_rng(0), SIZES.values()
    tensors = {
        "c1.w": rng.normal(size=(first, 3, 3, 3)) * 0.3,
        "c2.w": rng.normal(size=(second, first, 3, 3)) * 0.05,
        "c2.b": rng.normal(size=second) * 0.1,
        "fc.w": rng.normal(size=(5, second)),
    }
    for name, rows in {"c2.w": np.s_[4:], "c2.b": np.s_[4:], "fc.w": np.s_[:, 4:]}.items():
        tensors[name][rows] *= 0.01
    vectors = {n: rng.uniform(0.5, 1.5, first) for n in ("c1.b", "bn.g", "bn.b", "bn.m", "bn.v")}
    return conv_net(**tensors, **vectors)


def kept_by(method: str, share: float, joining: float, **options):
    """Return the widths that are left, and their blocks, of 7, as the machine counts them."""
    asked = []

    def latency(model, keep):
        asked.append(keep)
        kept = [s if n not in keep else int(keep[n].sum()) for n, s in SIZES.items()]
        return sum(-(-k // 16) + joining * (k % 16 > 0) for k in kept) / 7

    resources = Resources(input_shapes={"x": (1, 3, 8, 8)}, latency=latency)
    made = METHODS[method](target=f"latency={share}", **options)
    plan = made.plan(wide_net(), task_for((3, 8, 8), 5, count=48), resources)
    assert len(asked) <= 1 + 3 * 8
    share_left = latency(None, plan.keep)
    assert share_left <= share
    return [s if n not in plan.keep else int(plan.keep[n].sum()) for n, s in SIZES.items()]


@pytest.mark.parametrize("method", METHODS)
def test_whole_blocks_go_and_no_more_of_them_than_must(method):
    for share in (0.3, 0.6):
        kept = kept_by(method, share, joining=0.01)
        assert all(width % 16 == 0 for width in kept), kept
        assert sum(kept) // 16 == int(share * 7)


@pytest.mark.parametrize("method", METHODS)
def test_parts_of_blocks_are_taken_where_whole_ones_do_not_do(method):
    assert min(kept_by(method, 0.25, joining=-0.4)) < 16


def test_any_width_is_taken_where_it_is_asked_for():
    kept = kept_by("vib", 0.6, joining=0.0, round_to=1)
    assert any(width % 16 for width in kept), kept
