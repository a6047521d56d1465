"""Half of the channels of a trained network cut, and fine-tuned without a label: what it costs on MNIST.

Usage: ``python benchmarks/pruning_mnist.py --shared ../shared [--epochs 5] [--keep 0.5]``

The model is a network of CNTK (``mnist_cntk``), compressed by the command line with ``--labels none``: it
trains on inputs and the original's outputs alone. The test split is read once, at the end, by onnxruntime.
Writes ``benchmarks/results/pruning_mnist.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from onnxcompress.engine import runtime

TARGET_DROP = 0.3
"""Points of test accuracy that may be lost."""


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the test accuracy in percent; the file takes one image at a time."""
    session = runtime.open_session(model)
    name = session.inputs[0].name
    right = 0
    for image, label in zip(images, labels, strict=True):
        (scores,) = session.run({name: image[None, None].astype(np.float32)}).values()
        right += int(np.argmax(scores) == label)
    return 100 * right / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--keep", type=float, default=0.5)
    given = parser.parse_args()
    model, data = given.shared / "models/mnist_cntk.onnx", given.shared / "data/mnist.npz"
    with tempfile.TemporaryDirectory() as folder:
        cut, run = Path(folder) / "cut.onnx", Path(folder) / "run.json"
        command = [
            sys.executable, "-m", "onnxcompress", str(model), "-o", str(cut),
            "--method", "magnitude", "--keep", str(given.keep),
            "--method", "finetune", "--epochs", str(given.epochs),
            "--data", str(data), "--labels", "none", "--scale", "1", "--report", str(run), "-q",
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        with np.load(data) as arrays:
            images, labels = arrays["x_test"], arrays["y_test"]
        before, after = accuracy(model, images, labels), accuracy(cut, images, labels)
        facts = json.loads(run.read_text())
        sizes = [m["size_bytes"] for m in facts["models"]]
        macs = [m["macs"] for m in facts["models"]]
    reached = "reached" if before - after <= TARGET_DROP else "missed"
    table = (
        f"`mnist_cntk`, keep {given.keep:g}, {given.epochs:g} unlabelled epochs of fine-tuning, seed 0.\n\n"
        "| | original | cut | |\n|---|---|---|---|\n"
        f"| test accuracy % | {before:.2f} | {after:.2f} | at most {TARGET_DROP} points lost: {reached} |\n"
        f"| multiply-accumulates | {macs[0]:,} | {macs[1]:,} | {macs[1] / macs[0]:.2f} of them |\n"
        f"| bytes | {sizes[0]:,} | {sizes[1]:,} | {sizes[1] / sizes[0]:.2f} of them |\n\n"
        f"{seconds:.0f} s, the whole command.\n"
    )
    print(table)
    (Path(__file__).parent / "results" / "pruning_mnist.md").write_text(table)


if __name__ == "__main__":
    main()
