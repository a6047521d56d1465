"""The plain command's data on real models: the right scaling is found, training and teacher work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxcompress import importer
from onnxcompress.core.resources import Resources
from onnxcompress.engine import runtime
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.graph.torchgraph import TorchGraph
from onnxcompress.engine.training.trainer import Trainer

SHARED = Path(__file__).parents[3] / "shared"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared with real models is missing"),
]


def task_of(name, data, **options):
    file = SHARED / "models" / f"{name}.onnx"
    session = runtime.open_session(file)
    reading = {k: v for k, v in options.items() if k != "limit"}
    spec = SHARED / "data" / data
    examples = open_data(spec, session.inputs, outputs=session.outputs, predict=session.run, **reading)
    return file, session, examples, make_task(examples, limit=options.get("limit"))


@pytest.mark.parametrize(
    ("name", "data", "options", "error", "within"),
    [
        ("lenet300_lc_reference", "mnist.npz", {}, 0.0213, 0.0001),
        ("mnist_cntk", "mnist.npz", {"scale": 1.0}, 0.011, 0.0005),
        ("cifar_cnn_tutorial", "cifar10_subset.npz", {}, 0.36, 0.02),
    ],
)
def test_the_published_error_comes_out(name, data, options, error, within):
    _, session, examples, task = task_of(name, data, **options)
    outputs = examples.feeding.predict(session.run, examples.inputs(task.test))
    scores = next(iter(outputs.values()))
    found = float((scores.argmax(1) != examples.labels(task.test)).mean())
    assert found == pytest.approx(error, abs=within)
    told = "; ".join([*examples.notes, *examples.warnings])
    expected = "'x_train' unscaled" if options else "scaled by 1/255"
    assert expected in told
    assert "the original model scores" in told or options


def test_imagenet_folder_with_the_models_own_preprocessing():
    options = {"color": "bgr", "mean": (104, 117, 123)}
    _, session, examples, _ = task_of("squeezenet_fp16", "imagenet_sample", **options)
    assert any("numbers of the files" in note for note in examples.notes)
    some = np.arange(0, 500, 5)
    outputs = examples.feeding.predict(session.run, examples.inputs(some))
    right = next(iter(outputs.values())).reshape(100, -1).argmax(1) == examples.labels(some)
    assert right.mean() > 0.5


@pytest.mark.parametrize("name", ["lenet300_lc_reference", "mnist_cntk"])
def test_weights_damaged_heal_without_labels(name):
    file, _, _, task = task_of(name, "mnist.npz", labels="none", limit=600)
    trainer = Trainer(TorchGraph(importer.load(file)), task, Resources(), batch_size=60)
    assert trainer.evaluate().loss == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(0)
    graph = trainer.graph
    damaged = {n: a + 0.2 * a.std() * rng.standard_normal(a.shape) for n, a in graph.arrays().items()}
    graph.set_arrays(damaged)
    before = trainer.evaluate()
    trainer.run(6, lr=3e-4, optimizer="adam")
    assert trainer.evaluate().loss < before.loss / 2
