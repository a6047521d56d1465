"""A training run that is killed after some steps and goes on from the state it left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from onnxcompress.core.model import Model
from onnxcompress.core.plan import Plan
from onnxcompress.core.resources import Resources
from onnxcompress.engine.lc import training as lc_training
from onnxcompress.methods._base import Method


class KilledError(Exception):
    pass


def whole_and_resumed(
    method: Method, model: Model, task: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Plan, Plan]:
    """Return the plan of a run that nothing stops, and of one killed in its second step and resumed."""

    def progress(fraction, words, point):
        if point is not None and point.step == 2:
            raise KilledError

    whole = method.plan(model, task, Resources())
    # Steps are short here: let every one be saved.
    monkeypatch.setattr(lc_training, "_SAVE_EVERY_S", -1.0)
    with pytest.raises(KilledError):
        method.plan(model, task, Resources(checkpoint_dir=folder, progress=progress))
    return whole, method.plan(model, task, Resources(checkpoint_dir=folder, resume=True))


def assert_alike(one: Plan, other: Plan) -> None:
    """Assert that the weights, and the values trained along, are the same to the bit."""
    for ours, theirs in ((one.weights, other.weights), (one.values, other.values)):
        assert {n: e.decode().tobytes() for n, e in ours.items()} == {
            n: e.decode().tobytes() for n, e in theirs.items()
        }
