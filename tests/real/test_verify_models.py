"""Verification on real models: published accuracies, and one weight of thousands that is wrong."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxcompress import verify
from onnxcompress.core.errors import VerificationError
from onnxcompress.core.task import Task
from onnxcompress.engine.data.feeding import Feeding

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = SHARED / "models"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the folder ../shared with real models is missing"),
]


class Digits:
    """The 10,000 test digits of MNIST as a model wants them."""

    def __init__(self, name: str, feeding: Feeding, *, scale: float) -> None:
        with np.load(SHARED / "data" / "mnist.npz") as data:
            self._images, self._labels = data["x_test"], data["y_test"]
        self.name, self.feeding, self._scale = name, feeding, scale

    def __len__(self) -> int:
        return len(self._images)

    def inputs(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        return {self.name: self._images[indices, None].astype(np.float32) * np.float32(self._scale)}

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._labels[indices].astype(np.int64)


def task(samples: Digits) -> Task:
    everything = np.arange(len(samples))
    return Task(
        samples=samples,
        train=everything[:0],
        validation=everything[:0],
        test=everything,
        labelled=True,
        loss="ce",
        metric="top1",
        random=False,
        origin="MNIST",
        seed=0,
    )


@pytest.mark.parametrize(
    ("model", "samples", "published"),
    [
        ("lenet300_lc_reference", ("image", Feeding(False, None), 1 / 255), 0.9787),
        ("mnist_cntk", ("Input3", Feeding(False, 1), 1.0), 0.9890),
    ],
)
def test_published_accuracy(model: str, samples: tuple[str, Feeding, float], published: float) -> None:
    name, feeding, scale = samples
    path = MODELS / f"{model}.onnx"
    found = verify.accuracy(path, path, task(Digits(name, feeding, scale=scale)), batch=256)
    assert found is not None
    assert found.before == found.after == pytest.approx(published, abs=1.5e-4)
    assert (found.split, found.examples) == ("test", 10_000)


@pytest.mark.parametrize(
    ("model", "shape"), [("cifar_cnn_tutorial", (1, 3, 32, 32)), ("super_resolution", (1, 1, 224, 224))]
)
def test_one_wrong_weight_is_found(model: str, shape: tuple[int, ...]) -> None:
    path = MODELS / f"{model}.onnx"
    proto = onnx.load(path)
    name = proto.graph.input[0].name
    rng = np.random.default_rng(0)
    feeds = [{name: rng.random(shape).astype(np.float32)} for _ in range(3)]
    options = {"inputs": "random", "random_inputs": True, "tolerance": 1e-5}
    same = verify.compare(path, proto.SerializeToString(), feeds, **options)  # type: ignore[arg-type]
    assert same.passed
    assert all(o.equal for o in same.outputs)
    # The last tensor of rank 2 or more; the first element, off by one standard deviation of the tensor.
    tensor = [t for t in proto.graph.initializer if len(t.dims) > 1][-1]
    weight = numpy_helper.to_array(tensor).copy()
    weight.flat[0] += weight.std()
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    wrong = verify.compare(path, proto.SerializeToString(), feeds, **options)  # type: ignore[arg-type]
    assert wrong.passed is False
    with pytest.raises(VerificationError, match="differs by"):
        verify.require(wrong)
