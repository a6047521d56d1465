"""Small networks, a thousand examples or some more, a fifth of the multiply-accumulates, default options.

Usage: ``python benchmarks/few_examples.py [--seeds 0 1] [--only digits_mlp]``

Networks are trained here, on data that comes with scikit-learn or is made up. Three quarters of the examples
train them and are given to ``onnxcompress``; the last quarter is told of, once a row. VIB beside magnitude
pruning with ``finetune`` behind it, and with the five passes that ``finetune`` makes over many examples.
Writes ``benchmarks/results/few_examples.md``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.engine import runtime

TARGET = "macs=0.2"
PART = 0.75
"""Share of the examples that train the network and that the methods have."""

_MAGNITUDE = ["--method", "magnitude", "--target", TARGET, "--method", "finetune"]

METHODS = {
    "vib": ["--method", "vib", "--target", TARGET],
    "magnitude": _MAGNITUDE,
    "magnitude, 5 passes": [*_MAGNITUDE, "--epochs", "5"],
}

Made = tuple[Any, np.ndarray, np.ndarray]
"""A network that is not trained yet, its inputs, and classes or values."""


def digits_mlp() -> Made:
    """8 × 8 digits, two hidden layers."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _perceptron(64, 64, 32, 10), digits.data / 16, digits.target


def digits_cnn() -> Made:
    """8 × 8 digits, three convolutions with BatchNormalization."""
    from sklearn.datasets import load_digits
    from torch import nn

    layers: list[Any] = []
    for before, after in ((1, 32), (32, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    digits = load_digits()
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers, *head), digits.data.reshape(-1, 1, 8, 8) / 16, digits.target


def friedman() -> Made:
    """A function of five of ten inputs, with noise (Friedman 1991, as scikit-learn makes it)."""
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(1600, 10, noise=0.3, random_state=0)
    return _perceptron(10, 64, 64, 1), x, ((y - y.mean()) / y.std())[:, None]


def digits_autoencoder() -> Made:
    """8 × 8 digits through 24 numbers."""
    from sklearn.datasets import load_digits

    x = load_digits().data / 16
    return _perceptron(64, 96, 24, 96, 64), x, x


def factors() -> Made:
    """Scalar products of unknown factors of 80 users and 120 things, as numbers one-hot encoded."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(80, 3)), rng.normal(size=(120, 3))
    some = rng.integers(0, [80, 120], (4000, 2))
    y = (first[some[:, 0]] * second[some[:, 1]]).sum(1) + rng.normal(0, 0.1, len(some))
    x = np.concatenate([np.eye(80)[some[:, 0]], np.eye(120)[some[:, 1]]], axis=1)
    return _perceptron(200, 96, 96, 1), x, (y / y.std())[:, None]


MADE: dict[str, Callable[[], Made]] = {
    made.__name__: made for made in (digits_mlp, digits_cnn, friedman, digits_autoencoder, factors)
}


def _perceptron(*widths: int) -> Any:
    from torch import nn

    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def train(network: Any, x: np.ndarray, y: np.ndarray, target: Path) -> None:
    """Train and write as ONNX."""
    import torch

    loss = torch.nn.CrossEntropyLoss() if y.dtype.kind == "i" else torch.nn.MSELoss()
    inputs, wanted = torch.from_numpy(x), torch.from_numpy(y)
    steps = 60 * (len(x) // 32)
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(60):
        for rows in torch.randperm(len(x)).split(32)[: len(x) // 32]:
            optimizer.zero_grad()
            loss(network(inputs[rows]), wanted[rows]).backward()
            optimizer.step()
            schedule.step()
    written = io.BytesIO()
    torch.onnx.export(
        network.eval(), (inputs[:2],), written, input_names=["x"], output_names=["y"],
        dynamic_axes={"x": {0: "N"}, "y": {0: "N"}}, dynamo=False,
    )  # fmt: skip
    target.write_bytes(written.getvalue())


def error(model: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of wrong decisions, or the mean square error by the variance of targets, in %."""
    (found,) = runtime.open_session(model).run({"x": x}).values()
    if y.dtype.kind == "i":
        return 100 * float((found.argmax(1) != y).mean())
    return 100 * float(np.square(found - y).mean() / y.var(axis=0).mean())


def rows(name: str, seed: int) -> list[str]:
    """Return the cells of one network: its error, and those of the methods with the seconds they took."""
    import torch

    torch.manual_seed(seed)
    network, x, y = MADE[name]()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = x[order].astype(np.float32), y[order] if y.dtype.kind == "i" else y[order].astype(np.float32)
    known = int(PART * len(x))
    with tempfile.TemporaryDirectory() as folder:
        model, data, cut = (Path(folder) / name for name in ("model.onnx", "data.npz", "cut.onnx"))
        train(network, x[:known], y[:known], model)
        np.savez(data, x=x[:known], labels=y[:known])
        cells = [name, str(seed), str(known), f"{error(model, x[known:], y[known:]):.2f}"]
        for options in METHODS.values():
            command = [sys.executable, "-m", "onnxcompress", str(model), "-o", str(cut), "--overwrite"]
            began = time.perf_counter()
            subprocess.run([*command, "--data", str(data), "--seed", str(seed), "-q", *options], check=True)
            seconds = time.perf_counter() - began
            cells.append(f"{error(cut, x[known:], y[known:]):.2f} ({seconds:.0f} s)")
    return cells


def main() -> None:
    """Run the networks asked for and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", choices=list(MADE), nargs="+", default=list(MADE))
    given = parser.parse_args()
    head = ["network", "seed", "examples", "before", *METHODS]
    table = [
        "Written by `python benchmarks/few_examples.py`; see there for how it is measured. Errors on",
        "held-out examples in %: wrong decisions, or mean square error by variance; seconds of the command.",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for name in given.only:
        for seed in given.seeds:
            table.append(f"| {' | '.join(rows(name, seed))} |")
            print(table[-1], flush=True)
    target = Path(__file__).parent / "results" / "few_examples.md"
    if set(given.only) == set(MADE):
        target.write_text("\n".join(table) + "\n")


if __name__ == "__main__":
    main()
