"""Checkpoints: whole at every moment, refused where options differ, and a resumed run of the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from small_models import blobs, perceptron, task_of

from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.core.resources import Resources
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.checkpoint import NAME, Checkpoint
from onnxcompress.engine.training.trainer import QuadraticPenalty, Trainer


def test_arrays_and_values_come_back_bit_for_bit(tmp_path):
    arrays = {
        "a/b/0": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.array([1.5, -2], np.float16),
        "brain": np.array([1.5, -2, 3e38]).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7, np.int64),
        "none": np.zeros((0, 4), np.uint8),
        "yes": np.array([True, False]),
    }
    values = {"step": 3, "loss": (0.1).hex(), "best": None, "notes": ["a", "ü"]}
    checkpoint = Checkpoint(tmp_path / "deep" / "er", {"bits": 2})
    assert checkpoint.load() is None
    checkpoint.save(arrays, values)
    found, plain = Checkpoint(tmp_path / "deep" / "er", {"bits": 2}).load()
    assert plain == values
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    assert [f.name for f in (tmp_path / "deep" / "er").iterdir()] == [NAME]


def test_other_options_are_refused_by_name(tmp_path):
    Checkpoint(tmp_path, {"bits": 2, "lr": 0.1, "model": "abc"}).save({}, {})
    with pytest.raises(UsageError, match=r"other options.*bits: 2 then, 4 now; use the same"):
        Checkpoint(tmp_path, {"bits": 4, "lr": 0.1, "model": "abc"}).load()
    with pytest.raises(UsageError, match="data: null then"):
        Checkpoint(tmp_path, {"bits": 2, "lr": 0.1, "model": "abc", "data": "x"}).load()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"not a checkpoint at all"])
def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(UsageError, match="not a checkpoint"):
        Checkpoint(tmp_path, {}).load()


def test_pickles_are_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.savez(tmp_path / NAME, json=np.array([Bomb()], object))
    with pytest.raises(UsageError, match="not a checkpoint"):
        Checkpoint(tmp_path, {}).load()
    assert not (tmp_path / "exploded").exists()


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write the checkpoint"):
        Checkpoint(tmp_path / "file", {}).save({}, {})


def test_an_interrupted_write_leaves_the_old_state(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {})
    checkpoint.save({"a": np.ones(3)}, {"step": 1})
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save({"a": np.zeros(3)}, {"step": 2})
    assert checkpoint.load()[1] == {"step": 1}
    assert [f.name for f in tmp_path.iterdir()] == [NAME]


def training(folder, *, resume, unlabelled=False, stop_after=None, pause_s=0.0, saving=True):
    """Train in two runs with penalty, saving at every chance; interrupt after ``stop_after`` saves."""
    model, data = perceptron(), blobs(80)
    if unlabelled:
        data = {"x": data["x"]}
    trainer = Trainer(TorchGraph(model), task_of(model, data, seed=4), Resources(), batch_size=18)
    if unlabelled:
        trainer.graph.set_arrays({"W1": trainer.graph.arrays(["W1"])["W1"] * 0.5})
    checkpoint, saves, stage = Checkpoint(folder, {"options": 1}), 0, {"run": 0}
    loaded = checkpoint.load() if resume else None
    if loaded is not None:
        trainer.restore({k: v for k, v in loaded[0].items() if k != "method"}, loaded[1]["trainer"])
        stage["run"] = loaded[1]["run"]

    def save():
        nonlocal saves
        arrays, values = trainer.state()
        checkpoint.save({**arrays, "method": np.arange(3)}, {"trainer": values, "run": stage["run"]})
        saves += 1
        time.sleep(pause_s)
        if saves == stop_after:
            raise KeyboardInterrupt

    weight = trainer.graph.weight("W1")
    penalty = QuadraticPenalty([weight], [weight.detach() * 0 + 0.1], 0.2)
    for number, optimizer in enumerate(("sgd", "adam")):
        if number >= stage["run"]:
            stage["run"] = number
            trainer.run(
                3,
                lr=0.02,
                optimizer=optimizer,
                schedule=lambda part: 1 - 0.5 * part,
                penalty=penalty,
                save=save if saving else None,
                save_every_s=0.0,
            )
    return trainer.graph.arrays(), trainer.evaluate()


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 8, 14, 17, 23])
def test_a_resumed_run_has_the_bits_of_one_never_interrupted(tmp_path, stop_after):
    whole = training(tmp_path / "whole", resume=False, saving=False)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "cut", resume=False, stop_after=stop_after)
    resumed = training(tmp_path / "cut", resume=True)
    assert resumed[1] == whole[1]
    for name, array in whole[0].items():
        np.testing.assert_array_equal(resumed[0][name], array)


def test_interrupted_again_and_again(tmp_path):
    whole = training(tmp_path / "whole", resume=False, unlabelled=True, saving=False)
    result = None
    for _ in range(40):
        try:
            result = training(tmp_path / "cut", resume=True, unlabelled=True, stop_after=7)
            break
        except KeyboardInterrupt:
            continue
    for name, array in whole[0].items():
        np.testing.assert_array_equal(result[0][name], array)


_CHILD = """
import sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_checkpoint
arrays, evaluation = test_checkpoint.training(Path(sys.argv[2]), resume=True, pause_s=float(sys.argv[3]))
print(json.dumps({"loss": evaluation.loss.hex(), "W1": arrays["W1"].tobytes().hex()}))
"""


def test_a_process_killed_is_resumed_with_the_same_bits(tmp_path):
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(tmp_path / "cut"), "0.3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    limit = time.monotonic() + 60
    while not (tmp_path / "cut" / NAME).exists() and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert Checkpoint(tmp_path / "cut", {"options": 1}).load() is not None
    command[-1] = "0"
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    resumed = json.loads(finished.stdout)
    arrays, evaluation = training(tmp_path / "whole", resume=False, saving=False)
    assert resumed == {"loss": evaluation.loss.hex(), "W1": arrays["W1"].tobytes().hex()}
