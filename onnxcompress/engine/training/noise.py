"""Noise on the inputs while training: as much as the original itself hardly notices.

An original that fits its training examples perfectly has nothing left to tell its compressed twin about them;
examples with noise, for which its clean outputs and the labels still hold, do (Bishop 1995, Training with
noise is equivalent to Tikhonov regularization). The strength is found, not set: Gaussian noise whose standard
deviation, proportional to that of each input, moves the original's outputs by ``share`` of their variance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.task import Task
from onnxcompress.engine.data.feeding import Feeding
from onnxcompress.engine.graph.torchgraph import TorchGraph

SHARE = 0.04
"""Share of the variance of the original's outputs; LeNet300 errs on 1 % of its training examples then."""

EXAMPLES = 256
"""Training examples that the original is asked about."""

_LARGEST = 4.0


def fitting_noise(
    graph: TorchGraph, task: Task, share: float = SHARE, *, until: float = math.inf
) -> dict[str, float]:
    """Return the standard deviation of the noise for each floating-point input; empty where none fits.

    Args:
        graph: holds the original's weights.
        task: the data; training examples are used.
        share: see the top of this file.
        until: moment of ``time.monotonic`` after which what is found by then is returned.
    """
    generator = np.random.default_rng([task.seed, 0x4015E])
    stack = task.samples.inputs(generator.permutation(task.train)[:EXAMPLES])
    spread = {
        name: float(array.astype(np.float64).std())
        for name, array in stack.items()
        if array.dtype.kind in "fV"
    }
    spread = {name: value for name, value in spread.items() if np.isfinite(value) and value > 0}
    if not spread:
        return {}
    drawn = {name: generator.standard_normal(stack[name].shape) * value for name, value in spread.items()}
    feeding = getattr(task.samples, "feeding", None) or Feeding(False, None)
    graph.leave_out(task.left_out)
    clean = feeding.predict(graph.run, stack)

    def moved(strength: float) -> float:
        noisy = {
            name: (array + strength * drawn[name]).astype(array.dtype) if name in drawn else array
            for name, array in stack.items()
        }
        return moved_share(clean, feeding.predict(graph.run, noisy))

    strength = 0.25
    for _ in range(6):
        found = moved(strength)
        if not np.isfinite(found) or found <= 0:
            return {}
        # The share grows about with the square of the strength.
        strength = min(strength * float(np.clip(np.sqrt(share / found), 0.2, 5.0)), _LARGEST)
        if time.monotonic() >= until:
            break
    return {name: strength * value for name, value in spread.items()}


def moved_share(clean: Mapping[str, Array], noisy: Mapping[str, Array]) -> float:
    """Return the mean square difference of the outputs as share of their variance, mean over outputs."""
    shares = []
    for name, array in clean.items():
        if array.dtype.kind not in "fV":
            continue
        wide = array.astype(np.float64)
        if wide.var() > 0:
            shares.append(float(np.square(noisy[name].astype(np.float64) - wide).mean() / wide.var()))
    return float(np.mean(shares)) if shares else 0.0
