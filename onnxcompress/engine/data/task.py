"""The task: examples split into training and validation, with loss, metric and seed."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, OnnxCompressError, UsageError
from onnxcompress.core.task import Task
from onnxcompress.engine.data.adapters.function import load_function
from onnxcompress.engine.data.examples import Examples

VALIDATION_FRACTION = 0.1
VALIDATION_MOST = 5000


def make_task(
    samples: Examples,
    *,
    limit: int | None = None,
    val: float | int | None = None,
    loss: str | Callable[..., Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
    seed: int = 0,
) -> Task:
    """Return the task that these examples make; validation and test examples are in random order.

    Args:
        samples: the data.
        limit: use only this many examples of the training split, validation included, drawn with ``seed``.
        val: examples for validation, as a fraction (below 1) or a count; None: the data's own validation
            split, else a tenth of the training split, at most 5,000. Given, it replaces the data's own.
        loss: ``"ce"``, ``"mse"``, ``"kl"``, ``"l2"``, a sum such as ``"ce+kl"``, ``"module.py:function"``,
            or a callable; None: cross-entropy for classes, mean square for other labels, ``"l2"`` without.
        metric: ``"top1"``, ``"top5"``, ``"mse"``, ``"agreement"``, ``"relative_l2"``, a function as for
            ``loss``; None: chosen from the labels and the outputs.
        seed: of the split and of everything random done with the task.

    Raises:
        DataError: the validation split would leave nothing to train on.
        UsageError: a loss that needs labels was asked for and there are none, or it is not known.
    """
    available, limited = samples.splits["train"], ""
    if limit is not None:
        if limit < 1:
            raise UsageError("--limit must be positive", why=f"found {limit}")
        if limit < len(available):
            limited = f"{limit} of {len(available)} training examples"
            available = np.sort(np.random.default_rng([seed, 0x11]).choice(available, limit, replace=False))
    train, validation = _split(samples, available, val, seed)
    targets = samples.targets
    labelled = targets is not None
    chosen = _guarded(named_function(loss, "loss"), "loss") if loss is not None else None
    if chosen is None:
        chosen = "l2" if targets is None else "ce" if targets.kind == "classes" else "mse"
    if isinstance(chosen, str):
        _check_loss(chosen, samples)
    measured = _guarded(named_function(metric, "metric"), "metric") if metric is not None else None
    if measured is None and targets is not None:
        measured = "top1" if targets.kind == "classes" else "mse"
    if isinstance(measured, str):
        _check_metric(measured, samples)
    test = samples.splits.get("test")
    if test is not None and labelled and samples.labels(test) is None:
        test = None
    return Task(
        samples=samples,
        train=train,
        validation=validation,
        test=None if test is None else _mixed(test, seed),
        labelled=labelled,
        loss=chosen,
        metric=measured,
        random=samples.random,
        origin="; ".join([samples.origin, *([limited] if limited else []), *samples.notes]),
        seed=seed,
        warnings=samples.warnings,
        loss_named=loss is not None,
    )


def _split(samples: Examples, train: Array, val: float | int | None, seed: int) -> tuple[Array, Array]:
    own = samples.splits.get("validation")
    if own is not None and samples.targets is not None and samples.labels(own) is None:
        own = None
    if val is None and own is not None:
        return train, _mixed(own, seed)
    if val is not None and (isinstance(val, bool) or not np.isfinite(val) or val <= 0):
        raise UsageError(
            "--val must be positive", why=f"found {val}", fix="give a fraction below 1 or a count"
        )
    count = len(train)
    if count == 1:
        return train, train
    if val is None:
        size = min(round(VALIDATION_FRACTION * count), VALIDATION_MOST)
    else:
        size = round(val * count) if val < 1 else int(val)
    size = max(size, 1)
    if size >= count:
        raise DataError(
            f"--val {val} leaves nothing to train on", where=samples.origin, why=f"there are {count} examples"
        )
    order = np.random.default_rng([seed, 0x5A11]).permutation(train)
    return np.sort(order[size:]), order[:size]


def _mixed(indices: Array, seed: int) -> Array:
    """Return a split in random order: data is often sorted by class, and a part must stand for the whole."""
    return np.random.default_rng([seed, 0x0DE2]).permutation(indices)


def _check_loss(loss: str, samples: Examples) -> None:
    terms = [term.rpartition("*")[2].strip() for term in loss.split("+")]
    for term in terms:
        if term not in ("ce", "mse", "kl", "l2"):
            raise UsageError(
                f"unknown loss '{term}'",
                fix="known: ce, mse, kl, l2, sums such as ce+kl, or module.py:function",
            )
        if term in ("ce", "mse") and samples.targets is None:
            raise UsageError(
                f"loss '{term}' needs labels",
                where=samples.origin,
                why="the data has none",
                fix="name them with --labels, or use l2 or kl, whose teacher is the original model",
            )
        if term == "ce" and samples.targets is not None and samples.targets.kind != "classes":
            raise UsageError(
                "loss 'ce' needs classes", where=samples.origin, why="the labels are values", fix="use mse"
            )
        targets = samples.targets
        if term == "mse" and targets is not None and targets.kind == "classes" and targets.binary is None:
            raise UsageError(
                "loss 'mse' needs values", where=samples.origin, why="the labels are classes", fix="use ce"
            )


def _check_metric(metric: str, samples: Examples) -> None:
    known = ("top1", "top5", "mse", "agreement", "relative_l2")
    if metric not in known:
        raise UsageError(
            f"unknown metric '{metric}'", fix=f"known: {', '.join(known)}, or module.py:function"
        )
    kind = samples.targets.kind if samples.targets else None
    if (metric in ("top1", "top5") and kind != "classes") or (metric == "mse" and kind != "values"):
        need = "class labels" if metric != "mse" else "labels that are values"
        raise UsageError(f"metric '{metric}' needs {need}", where=samples.origin)


def _guarded(given: str | Callable[..., Any], noun: str) -> str | Callable[..., Any]:
    """Return a user's function that tells its own failures; a name as it is."""
    if isinstance(given, str):
        return given
    name = getattr(given, "__name__", "own function")

    def failed(why: str) -> UsageError:
        fix = f"it is called with (outputs, labels, teacher's outputs) and returns {_RETURNED[noun]}"
        return UsageError(f"the {noun} '{name}' failed", why=why, fix=fix)

    @functools.wraps(given)
    def call(outputs: Any, labels: Any, teacher: Any) -> Any:
        try:
            found = given(outputs, labels, teacher)
            number = float(found.detach() if hasattr(found, "detach") else found)
        except OnnxCompressError:
            raise
        except (Exception, SystemExit) as error:
            raise failed(f"{type(error).__name__}: {error}") from error
        if noun == "loss" and not hasattr(found, "backward"):
            raise failed(f"it returned {type(found).__name__}")
        if noun == "loss" and not found.requires_grad and any(o.requires_grad for o in outputs.values()):
            raise failed(
                "its result has no gradient: torch cannot follow how it comes from the outputs (where a "
                "batch has nothing to judge, return 0 times their sum)"
            )
        return number if noun == "metric" else found

    return call


_RETURNED = {"loss": "a torch tensor with one number", "metric": "one number"}


def named_function(name: str | Callable[..., Any], noun: str) -> str | Callable[..., Any]:
    """Return the function that ``"file.py:function"`` or ``"package.module:function"`` names.

    Anything else is returned as it is.
    """
    if not isinstance(name, str) or ":" not in name:
        return name
    module, _, function = name.rpartition(":")
    if module.endswith(".py"):
        return load_function(Path(module), function, noun)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load the {noun} '{name}'", why=str(error)) from None
    if not callable(found):
        raise UsageError(f"the {noun} '{name}' is not a function")
    return found  # type: ignore[no-any-return]
