"""The data of a run: read for its sizes before the model runs, made a task when the model is known to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxcompress.core.errors import DataError, OnnxCompressError, UnsupportedError, UsageError
from onnxcompress.core.run import GIVEN
from onnxcompress.core.task import Task
from onnxcompress.engine import feeds
from onnxcompress.engine.data import DataRead, Examples, Items, make_task, open_data, read_data
from onnxcompress.pipeline._original import Original
from onnxcompress.recipe import TASK_OPTIONS

Shapes = Mapping[str, tuple[int, ...]]

_AT_ONCE = 32
"""Examples of one call where it is looked for one that the model does not take."""


@dataclass(frozen=True, eq=False)
class Given:
    """Data as it was given.

    Attributes:
        options: data options (``path`` …).
        read: what could be read, None where nothing is given.
        error: why it cannot be read; raised when the model is known to run, for without one data is nothing.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    read: DataRead | None = None
    error: OnnxCompressError | None = None


def read(original: Original, options: Mapping[str, Any]) -> Given:
    """Read the data that options name for a model of which nothing has run yet."""
    if options.get("path") is None:
        return Given(options)
    if options.get("random"):
        fix = "leave one of them out"
        return Given(options, error=UsageError("--data and --random-data exclude each other", fix=fix))
    reading = {k: v for k, v in options.items() if k not in ("path", "random", *TASK_OPTIONS)}
    try:
        return Given(options, read_data(options["path"], original.session.inputs, **reading))
    except OnnxCompressError as error:
        return Given(options, error=error)


def with_sizes(original: Original, input_shapes: Shapes, data: Given) -> Original:
    """Return the original with concrete shapes of its inputs, at which it runs.

    Costs are counted and cuts decided at these sizes, which have to be those the model is used at.

    Args:
        original: the model as it came.
        input_shapes: those that the user chose; where there are some, data is not asked.
        data: its examples have the sizes that the file leaves open; where the model takes no random numbers
            of these, usual sizes are tried.

    Raises:
        UnsupportedError: onnxruntime does not run it.
        UsageError: ``input_shapes`` names an input that does not exist, or does not fit.
    """
    wanted = {} if input_shapes or data.read is None else _open_shapes(original, data.read.shapes)
    refused: OnnxCompressError | None = None
    if wanted:
        try:
            return _resolved(original, wanted)
        except OnnxCompressError as error:
            refused = error
    try:
        return _resolved(original, input_shapes)
    except UsageError as error:  # of several models, which one
        where = error.where or original.model.source.path
        raise UsageError(error.what, where=where, why=error.why, fix=error.fix) from error
    except UnsupportedError as error:
        why, fix = error.why, error.fix
        if refused is not None:
            why = f"at the sizes of the data, {refused.why or refused.what}"
        elif data.error is not None and not input_shapes:
            fix = f"{fix}, or with data that fits: {data.error}"
        raise UnsupportedError(error.what, where=error.where, why=why, fix=fix) from error


def with_sizes_of_task(original: Original, task: Task | None, input_shapes: Shapes) -> Original:
    """Return the original with the sizes of an example as it is fed, which only a running model may tell.

    Args:
        original: with sizes that run.
        task: whose examples are asked; random ones have been drawn at the original's sizes.
        input_shapes: those that the user chose; where there are some, they are left as they are.
    """
    if input_shapes or task is None or task.random or not isinstance(task.samples, Examples):
        return original
    wanted = _open_shapes(original, task.samples.feed_shapes())
    if all(original.shapes[name] == shape for name, shape in wanted.items()):
        return original
    try:
        return _resolved(original, wanted)
    except OnnxCompressError:  # random numbers of these sizes may not do
        return original


def _open_shapes(original: Original, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the inputs of which the file leaves sizes open."""
    infos = original.session.inputs
    opened = [info.name for info in infos if not all(isinstance(d, int) for d in info.shape)]
    return {name: shapes[name] for name in opened if name in shapes}


def _resolved(original: Original, shapes: Shapes) -> Original:
    return replace(original, shapes=feeds.resolve_shapes(original.model, original.session, shapes))


def data_task(original: Original, data: Given, seed: int) -> Task:
    """Return the task that the data makes for this model.

    Raises:
        DataError: it cannot be read, or does not fit the model.
    """
    if data.error is not None:
        raise data.error
    assert data.read is not None
    examples = data.read.examples(original.session.outputs, original.session.run, seed)
    return task_of(original, examples, data.options, seed)


def untrained_task(original: Original, data: Given, seed: int) -> Task:
    """Return the task of data that nothing is trained on: none of it has to be held out.

    Results are measured on all examples, or those that ``limit`` leaves, unless the data has a test or a
    validation split of its own, or the user asks for one with ``val``.
    """
    task = data_task(original, data, seed)
    assert isinstance(task.samples, Examples)
    whole = task.samples.splits["train"]
    if (
        task.test is not None
        or data.options.get("val") is not None
        or not np.isin(task.validation, whole).all()
    ):
        return task
    given = np.union1d(task.train, task.validation)
    # Mixed: the first so many are to stand for all, and data may be sorted by class.
    mixed = np.random.default_rng([seed, 0xA11]).permutation(given)
    return replace(task, train=given[:0], validation=mixed, validation_told=GIVEN)


def task_of(original: Original, examples: Examples, options: Mapping[str, Any], seed: int) -> Task:
    """Return the task that examples make for this model."""
    task = make_task(examples, seed=seed, **{k: v for k, v in options.items() if k in TASK_OPTIONS})
    return replace(task, decided=original.decided)


def require_data_runs(original: Original, task: Task | None) -> None:
    """Run the original on the data, after something failed: where that fails as well, it is the data.

    Raises:
        DataError: names the first example that onnxruntime refuses.
    """
    if task is None or task.random or not isinstance(task.samples, Examples):
        return
    everything = [task.train, task.validation, *([task.test] if task.test is not None else [])]
    for split in everything:
        for start in range(0, len(split), _AT_ONCE):
            _require_runs(original, task.samples, split[start : start + _AT_ONCE])


def _require_runs(original: Original, samples: Examples, indices: Any) -> None:
    try:
        for _, feed in samples.feeding.calls(samples.inputs(indices), _AT_ONCE):
            original.session.run(feed)
    except OnnxCompressError as error:
        if len(indices) > 1:
            for one in indices:
                _require_runs(original, samples, np.array([one]))
            return  # together they do not run, each alone does: that is the model's fault
        raise DataError(
            "the model does not run on the data",
            where=samples.place(int(indices[0])),
            why=f"onnxruntime says: {error.why or error.what}",
        ) from error


def random_examples(original: Original, count: int, seed: int) -> Examples:
    """Return seeded random examples, marked as such.

    Raises:
        UsageError: the model has no inputs.
    """
    if not original.session.inputs:
        where, why = original.model.source.path, "there is nothing that random numbers could feed"
        raise UsageError("the model has no inputs", where=where, why=why)
    drawn = feeds.random_feeds(
        original.session.inputs, seed=seed, shapes=original.shapes, examples=count, model=original.model
    )
    items = Items(drawn, "random numbers")
    examples = open_data(items, original.session.inputs, predict=original.session.run, seed=seed)
    return replace(examples, random=True)
