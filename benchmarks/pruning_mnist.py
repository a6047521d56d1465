"""Half of the channels of a trained network cut, and fine-tuned without a label: what it costs on MNIST.

Usage: ``python benchmarks/pruning_mnist.py --shared ../shared [--epochs 5] [--keep 0.5] [--seeds 0 1 2]``

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


def once(model: Path, data: Path, keep: float, epochs: float, seed: int) -> dict[str, float]:
    """Compress with one seed, and return what the table shows."""
    with tempfile.TemporaryDirectory() as folder:
        cut, run = Path(folder) / "cut.onnx", Path(folder) / "run.json"
        command = [
            sys.executable, "-m", "onnxcompress", str(model), "-o", str(cut), "--seed", str(seed),
            "--method", "magnitude", "--keep", str(keep),
            "--method", "finetune", "--epochs", str(epochs),
            "--data", str(data), "--labels", "none", "--scale", "1", "--report", str(run), "-q",
        ]  # fmt: skip
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
        with np.load(data) as arrays:
            images, labels = arrays["x_test"], arrays["y_test"]
        before, after = accuracy(model, images, labels), accuracy(cut, images, labels)
        models = json.loads(run.read_text())["models"]
    macs, size = (models[1][k] / models[0][k] for k in ("macs", "size_bytes"))
    return {"before": before, "after": after, "macs": macs, "size": size, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    model, data = given.shared / "models/mnist_cntk.onnx", given.shared / "data/mnist.npz"
    table = (
        f"`mnist_cntk`, keep {given.keep:g}, {given.epochs:g} unlabelled epochs of fine-tuning.\n\n"
        "| seed | test accuracy % of the original | of the cut network | points lost (at most 0.3 wanted) "
        "| multiply-accumulates left | bytes left | s |\n|---|---|---|---|---|---|---|\n"
    )
    drops = []
    for seed in given.seeds:
        row = once(model, data, given.keep, given.epochs, seed)
        lost = row["before"] - row["after"]
        drops.append(lost)
        verdict = "reached" if lost <= TARGET_DROP + 1e-9 else "missed"
        table += (
            f"| {seed} | {row['before']:.2f} | {row['after']:.2f} | {lost:.2f}: {verdict} "
            f"| {row['macs']:.2f} | {row['size']:.2f} | {row['seconds']:.0f} |\n"
        )
        print(table, flush=True)
    table += f"\n{np.mean(drops):.2f} points lost on average.\n"
    (Path(__file__).parent / "results" / "pruning_mnist.md").write_text(table)


if __name__ == "__main__":
    main()
