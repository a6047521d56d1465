"""Interrupted training under a bottleneck goes on with the same bits, wherever it was stopped."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from pruning_models import conv_net, mlp, task_for

from onnxcompress.core.errors import UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.bottleneck import choice, keeping
from onnxcompress.methods.vib import Vib

IMAGES = Resources(input_shapes={"x": (1, 3, 8, 8)})


def same(one, two):
    assert one.keep.keys() == two.keep.keys()
    assert all(np.array_equal(one.keep[n], two.keep[n]) for n in one.keep)
    assert one.values.keys() == two.values.keys()
    for name, encoding in one.values.items():
        assert np.array_equal(encoding.decode(), two.values[name].decode()), name
    held = [replace(p, elapsed_s=0.0) for p in one.training.points]
    assert held == [replace(p, elapsed_s=0.0) for p in two.training.points]
    assert one.training.bottleneck == two.training.bottleneck


class StoppedError(Exception):
    pass


def interrupted(method, model, task, resources, monkeypatch, when):
    """Run until the checkpoint has been written ``when`` times."""
    saves = []
    write = keeping.Keeper.save

    def save(self, parts):
        write(self, parts)
        saves.append(parts["run"][1]["phase"])
        if len(saves) == when:
            raise StoppedError

    monkeypatch.setattr(keeping.Keeper, "save", save)
    with pytest.raises(StoppedError):
        method.plan(model, task, resources)
    monkeypatch.setattr(keeping.Keeper, "save", write)
    return saves[-1]


def test_resumed_at_any_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    rng = np.random.default_rng(1)
    model = mlp(rng.normal(size=(24, 6)), rng.normal(size=(3, 24)))
    task = task_for((6,), 3, labelled=True, count=400, label=lambda x: int(np.argmax(x[:3])))
    method = Vib(epochs=4.0, after=3.0, normalise=True, target="params=0.5", batch_size=64, round_to=1)
    resources = Resources(input_shapes={"x": (1, 6)})
    whole = method.plan(model, task, resources)
    phases = set()
    for when in (3, 17, 25, 30, 36):
        kept = replace(resources, checkpoint_dir=tmp_path / str(when))
        phases.add(interrupted(method, model, task, kept, monkeypatch, when))
        same(whole, method.plan(model, task, replace(kept, resume=True)))
    assert phases >= {"gated", "decided", "recovering"}
    # What was finished is taken as it is.
    same(whole, method.plan(model, task, replace(kept, resume=True)))
    with pytest.raises(UsageError, match="other options"):
        replace(method, after=4.0).plan(model, task, replace(kept, resume=True))


def test_resumed_with_statistics_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SAVE_EVERY_S", 0.0)
    model, task = conv_net(), task_for((3, 8, 8), 5, count=160)
    method = Vib(epochs=3.0, after=2.0, batch_size=32, round_to=1)
    whole = method.plan(model, task, IMAGES)
    kept = replace(IMAGES, checkpoint_dir=tmp_path)
    interrupted(method, model, task, kept, monkeypatch, 7)
    same(whole, method.plan(model, task, replace(kept, resume=True)))


def test_what_was_learnt_from_other_data_or_by_another_loss_is_not_taken_up(tmp_path):
    """As many examples, and the same options of the method: the report would tell of what was not done."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=40, labelled=True)
    method, kept = Vib(epochs=0.5, after=0.0, round_to=1), replace(IMAGES, checkpoint_dir=tmp_path)
    first = method.plan(model, task, kept)
    again = replace(kept, resume=True)
    same(first, method.plan(model, task, again))
    with pytest.raises(UsageError, match='loss: "ce" then, "kl" now'):
        method.plan(model, replace(task, loss="kl"), again)
    options = {"count": 40, "labelled": True}
    others = {"seed": 2}, {"label": lambda x: int(x[0, 0, 0] > 0)}
    for other in (task_for((3, 8, 8), 5, **options, **changed) for changed in others):
        with pytest.raises(UsageError, match="data: "):
            method.plan(model, other, again)


def test_a_state_of_other_groups_is_not_taken_up(tmp_path, monkeypatch):
    """A version that gates less, of the same options and data, has left it."""
    model, task = conv_net(), task_for((3, 8, 8), 5, count=40)
    method, kept = Vib(epochs=0.5, after=0.0, round_to=1), replace(IMAGES, checkpoint_dir=tmp_path)
    found = choice.gated_groups

    def fewer(*args, **kwargs):
        groups, refusals = found(*args, **kwargs)
        assert len(groups) > 1
        return groups[:-1], refusals

    monkeypatch.setattr(choice, "gated_groups", fewer)
    method.plan(model, task, kept)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="gated: "):
        method.plan(model, task, replace(kept, resume=True))
