"""Scaling: whole numbers (pixels) into a floating-point input, by a rule that is stated, never silent.

Given ``--scale``, ``--mean`` or ``--std``, these hold. Otherwise, with class labels, the usual scalings are
tried with the original model on some training examples, and the one it scores best with is taken. Where that
does not decide, or there are no labels, the most usual one is taken (1/255 for 8-bit pixels), and a warning
says so. (How well a model tells unlabelled examples apart, or how sure it is, is no criterion: both grow with
the scale.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data.fit import Affine
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.trial import Trial

PIXELS = Affine(1 / 255)
SIGNED = Affine(1 / 255, (0.5,), (0.5,))
IMAGENET = Affine(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels, as torchvision's models take them."""

_FEW, _MANY = 512, 2048


@dataclass(frozen=True)
class Choice:
    """The scaling chosen, a sentence saying why, and whether a person should look at it."""

    affine: Affine
    sentence: str
    doubtful: bool


def given(options: DataOptions, whole_numbers: bool, channels: int | None) -> Affine | None:
    """Return the scaling that the options ask for, None where they ask for none.

    Without ``scale``, means and deviations up to 1 belong to pixels scaled by 1/255, larger ones to pixels
    as they are.
    """
    if options.scale is None and options.mean is None and options.std is None:
        return None
    mean, std = options.mean or (0.0,), options.std or (1.0,)
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise DataError(
                f"{name} has {len(values)} numbers", why=f"the input has {channels or 'no'} channels"
            )
        if not all(math.isfinite(v) for v in values) or (name == "--std" and 0 in values):
            raise DataError(
                f"{name} holds a number that cannot be used", why=", ".join(str(v) for v in values)
            )
    scale = options.scale
    if scale is None:
        small = max(map(abs, (*mean, *std))) <= 1
        scale = 1 / 255 if whole_numbers and small else 1.0
    if not math.isfinite(scale) or scale == 0:
        raise DataError("--scale cannot be used", why=str(scale))
    return Affine(scale, tuple(mean), tuple(std))


def candidates(dtype: np.dtype[Any], channels: int | None) -> tuple[Affine, ...]:
    """Return the usual scalings of whole numbers of this type, the most usual first."""
    if dtype == np.uint8:
        images = (IMAGENET,) if channels == 3 else ()
        return (PIXELS, Affine(), SIGNED, *images)
    if dtype == np.int16:
        return (Affine(1 / 32768), Affine())
    return (Affine(),)


def choose(tried: Sequence[Affine], what: str, trial: Trial | None) -> Choice:
    """Choose among the usual scalings by what the original model makes of them.

    Those that are not clearly worse than the best on 512 examples (three standard errors of the difference)
    meet again on 2,048; among those that are still not clearly worse the most usual is taken.

    Args:
        tried: the scalings, the most usual first.
        what: the data, for the sentence ("x_train (uint8)").
        trial: measures one; None where there are no class labels or no model.
    """
    usual = tried[0]
    override = "--scale, --mean and --std override this"
    if len(tried) == 1:
        return Choice(usual, f"{what} {usual.words()}", False)
    if trial is None:
        sentence = f"{what} {usual.words()}, the usual way, as no labels tell better; {override}"
        return Choice(usual, sentence, True)
    right = {affine: trial.right(affine, _FEW) for affine in tried}
    close = _close(right)
    if len(close) > 1 and trial.examples > _FEW:
        right.update({affine: trial.right(affine, _MANY) for affine in close})
        close = _close({affine: right[affine] for affine in close})
    accuracy = {affine: float(r.mean()) for affine, r in right.items()}
    best = max(accuracy.values())
    if _z(best, 1 / trial.classes, min(trial.examples, _FEW)) < 3:
        sentence = (
            f"{what} {usual.words()}, the usual way, but the original model does no better than chance on "
            f"the labels, however the numbers are scaled ({best:.1%} at best); {override}"
        )
        return Choice(usual, sentence, True)
    chosen = next(affine for affine in tried if affine in close)
    runner = max((a for a in tried if a != chosen), key=lambda a: accuracy[a])
    sentence = (
        f"{what} {chosen.words()}: the original model scores {accuracy[chosen]:.1%} that way "
        f"against {accuracy[runner]:.1%} {runner.words()}"
    )
    return Choice(chosen, sentence + (f"; {override}" if len(close) > 1 else ""), len(close) > 1)


def _close(right: dict[Affine, Any]) -> list[Affine]:
    """Return the scalings that are not clearly worse than the best, by McNemar's paired comparison."""
    best = max(right, key=lambda affine: float(right[affine].mean()))
    close = []
    for affine, hits in right.items():
        won, lost = int((right[best] & ~hits).sum()), int((hits & ~right[best]).sum())
        if won - lost <= 3 * math.sqrt(won + lost):
            close.append(affine)
    return close


def _z(high: float, low: float, examples: int) -> float:
    """Return how many standard errors of ``low`` a fraction of ``examples`` lies above it."""
    return (high - low) / math.sqrt(max(low * (1 - low), 1e-9) / examples)
