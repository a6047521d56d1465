"""Opening: from what was given as data to :class:`Examples` that fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxcompress.core.errors import DataError
from onnxcompress.engine.data import scaling
from onnxcompress.engine.data.adapters._base import ADAPTERS, Adapter
from onnxcompress.engine.data.columns import Column, JoinedColumn
from onnxcompress.engine.data.examples import Examples, take_indices
from onnxcompress.engine.data.feeding import Feeding, Predict, TensorLike
from onnxcompress.engine.data.fit import Fit, example_dims, find_fit
from onnxcompress.engine.data.independence import independent, time_first
from onnxcompress.engine.data.keys import Part, match_keys
from onnxcompress.engine.data.labels import Labels, fitting_labels
from onnxcompress.engine.data.meaning import understood
from onnxcompress.engine.data.options import DataOptions
from onnxcompress.engine.data.trial import Trial

_ORDER = ("train", "validation", "test")

Columns = Mapping[str, tuple[str, Column]]
"""Input name -> the key and the column that feed it."""


@dataclass(frozen=True, eq=False)
class DataRead:
    """Data read for a model's inputs, of which nothing has run yet.

    Attributes:
        bare: the examples as they fit the declared inputs: unscaled, without labels.
        columns: what feeds each input.
        parts: split -> what belongs to it.
        inputs: the model's inputs.
        options: how it was read.
        notes: sentences on how it was read.
    """

    bare: Examples
    columns: Columns
    parts: Mapping[str, Part]
    inputs: Sequence[TensorLike]
    options: DataOptions
    notes: tuple[str, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the inputs where one example is fed; no example is read for it."""
        return self.bare.feed_shapes()

    def examples(
        self, outputs: Sequence[TensorLike] = (), predict: Predict | None = None, seed: int = 0
    ) -> Examples:
        """Return the examples, with what only the running model tells: scaling, labels, where examples lie.

        Args:
            outputs: the model's outputs, to check the labels against.
            predict: runs the original model on one feed; decides the scaling where that is not given.
            seed: of the choice of examples that scalings are tried on.

        Raises:
            DataError: one sentence naming the key, what was found and what was expected.
        """
        notes = list(self.notes)
        bare = _apart(self.bare, self.columns, self.inputs, predict, self.options)
        named = self.options.labels is not None
        candidates = _labels(self.parts, list(bare.splits), bare, outputs, predict, notes=notes, named=named)

        def scaled(examples: Examples) -> Examples:
            fits, said, warnings = _scale(examples, self.inputs, self.options, predict, seed)
            warnings = (*examples.warnings, *warnings)
            return replace(examples, fits=fits, notes=(*notes, *examples.notes, *said), warnings=warnings)

        examples = understood(bare, candidates, scaled, predict, seed) if candidates else scaled(bare)
        examples.inputs(np.arange(min(len(examples), 16)))  # what is wrong throughout is told at once
        return examples


def open_data(
    spec: Any,
    inputs: Sequence[TensorLike],
    *,
    outputs: Sequence[TensorLike] = (),
    predict: Predict | None = None,
    seed: int = 0,
    **options: Any,
) -> Examples:
    """Open data for a model that runs: :func:`read_data` and :meth:`DataRead.examples` in one."""
    return read_data(spec, inputs, **options).examples(outputs, predict, seed)


def read_data(spec: Any, inputs: Sequence[TensorLike], **options: Any) -> DataRead:
    """Read data for a model's inputs as they are declared, without running it.

    Args:
        spec: path or text as for ``--data``; or an iterable of dicts, an object with ``get_next``
            (onnxruntime's CalibrationDataReader), or one with the Samples protocol.
        inputs: the model's inputs that must be fed.
        options: fields of :class:`DataOptions`.

    Raises:
        DataError: one sentence naming the key, what was found and what was expected.
    """
    opts = DataOptions.of(options)
    if not inputs:
        raise DataError("the model has no inputs", why="there is nothing that data could feed")
    if isinstance(spec, str):
        spec = _path_or_text(spec)
    store = _adapter(spec).open(spec, inputs, opts)
    feeding = Feeding.of(inputs)
    with _explained(feeding):
        parts, notes = match_keys(store, [i.name for i in inputs], opts.labels)
        names = [name for name in _ORDER if name in parts]
        columns = {i.name: _join(i.name, [parts[s].inputs[i.name] for s in names]) for i in inputs}
        feeding, fits = _fits(columns, inputs, feeding, opts)
    splits = take_indices([(s, next(iter(parts[s].inputs.values()))[1].shape[0]) for s in names])
    bare = Examples({n: c for n, (_, c) in columns.items()}, fits, None, splits, feeding, store.origin)
    return DataRead(bare, columns, parts, inputs, opts, (*store.notes, *notes))


def _fits(
    columns: Columns, inputs: Sequence[TensorLike], feeding: Feeding, options: DataOptions
) -> tuple[Feeding, dict[str, Fit]]:
    """Return how the columns fit the inputs; as whole feeds, where one is square and they do not fit else."""
    try:
        fits = {i.name: find_fit(*columns[i.name], i, feeding, options) for i in inputs}
        if not _of_one_batch(columns, inputs, fits, feeding.batch):  # feeds of several, one step of each
            several = replace(feeding, batch=None)
            fits = {i.name: find_fit(*columns[i.name], i, several, options) for i in inputs}
        return feeding, fits
    except DataError:
        # The nodes of a graph are no examples: its adjacency matrix has them along two axes.
        square = any(isinstance(i.shape[0], str) and i.shape[0] in i.shape[1:] for i in inputs if i.shape)
        if feeding.whole or not square:
            raise
        whole = Feeding(True, None)
        with suppress(DataError):
            return whole, {i.name: find_fit(*columns[i.name], i, whole, options) for i in inputs}
        raise


def _of_one_batch(
    columns: Columns, inputs: Sequence[TensorLike], fits: Mapping[str, Fit], batch: str | None
) -> bool:
    """Tell whether a feed has as many examples in every input, as far as an axis counts them."""
    lengths = set()
    for item in inputs:
        if batch is not None and batch in item.shape:
            column = columns[item.name][1]
            blank = np.zeros((1, *column.shape[1:]), column.dtype)
            lengths.add(fits[item.name].apply(blank).shape[1 + item.shape.index(batch)])
    return len(lengths) <= 1


def _apart(
    examples: Examples,
    columns: Columns,
    inputs: Sequence[TensorLike],
    predict: Predict | None,
    options: DataOptions,
) -> Examples:
    """Return examples whose feeds do not mix them, or with a warning where they do nevertheless."""
    apart = None if predict is None else independent(examples, predict)
    if predict is None or apart:
        return examples
    singly = time_first(examples, inputs, predict)
    if singly is not None:
        whole = Feeding(True, None)
        fits = {i.name: find_fit(*columns[i.name], i, whole, options) for i in singly}
        note = (
            "examples lie along the second axis of the inputs, time along the first: they are fed one by one"
        )
        return replace(examples, fits=fits, feeding=whole, notes=(note,))
    if apart is None:
        return examples
    warning = (
        "the model's answer to an example hangs on what is fed beside it, so that training and measuring, "
        "which feed examples alone or in any company, may say nothing of its use; if the first axis of its "
        "inputs counts no examples, put a Transpose in front"
    )
    return replace(examples, warnings=(warning,))


@contextmanager
def _explained(feeding: Feeding) -> Iterator[None]:
    """Say, where data does not fit inputs without a common batch axis, how it would."""
    try:
        yield
    except DataError as error:
        if not feeding.whole or error.fix is not None:
            raise
        fix = (
            "the inputs share no batch axis (one is a scalar, or first axes differ): an example is a whole "
            "feed, and arrays of N examples have an axis of length N in front of each input's shape"
        )
        raise DataError(error.what, where=error.where, why=error.why, fix=fix) from error


def _path_or_text(spec: str) -> Path | str:
    path = Path(spec).expanduser()
    module = spec.rpartition(":")[0]
    if not path.exists() and module.endswith(".py"):
        return spec
    return path


def _adapter(spec: Any) -> Adapter:
    found = [a for a in ADAPTERS.values() if a.accepts(spec)]
    if isinstance(spec, Path) and not spec.exists():
        raise DataError("the data is not there", where=str(spec), why="no such file or folder")
    if not found:
        kinds = ", ".join(sorted(a.example for a in ADAPTERS.values()))
        raise DataError(
            "the data is of no kind that can be read", where=str(spec), fix=f"known kinds: {kinds}"
        )
    assert len(found) == 1, f"adapters {[a.name for a in found]} exclude each other"
    return found[0]


def _join(name: str, keyed: Sequence[tuple[str, Column]]) -> tuple[str, Column]:
    """Return one column over all splits, with the first split's key."""
    key, first = keyed[0]
    if len(keyed) == 1:
        return key, first
    for other, column in keyed[1:]:
        if column.shape[1:] != first.shape[1:] or column.dtype.kind != first.dtype.kind:
            raise DataError(
                f"'{key}' and '{other}' both feed '{name}' but differ",
                why=f"examples of shape {first.shape[1:]} and type {first.dtype} against "
                f"{column.shape[1:]} and {column.dtype}",
            )
    return key, JoinedColumn([column for _, column in keyed])


def _labels(
    parts: Mapping[str, Part],
    names: Sequence[str],
    examples: Examples,
    outputs: Sequence[TensorLike],
    predict: Predict | None,
    *,
    notes: list[str],
    named: bool,
) -> tuple[Labels, ...]:
    """Join and check the labels of all splits; a later split without labels ends the labelled range.

    Returns what they may be, nothing where there are none.
    """
    train = parts["train"].labels
    if train is None:
        if any(part.labels for part in parts.values()):
            notes.append("the training split has no labels, so labels are not used")
        return ()
    keyed: list[tuple[str, Column]] = []
    for split in names:
        labels = parts[split].labels
        if labels is None:
            notes.append(f"the {split} split has no labels and is not used to measure accuracy")
            break
        keyed.append(labels)
    key, column = _join("labels", keyed) if len(keyed) > 1 else keyed[0]
    shapes = _output_shapes(outputs, examples, predict)
    if predict is not None and not shapes:
        why = "the model has no output of real numbers that they could be held to"
        if named:
            raise DataError(f"labels '{key}' cannot be used", where=examples.origin, why=why)
        notes.append(f"labels '{key}' are not used: {why}")
        return ()
    return fitting_labels(key, column, shapes, examples.origin)


def _output_shapes(
    outputs: Sequence[TensorLike], examples: Examples, predict: Predict | None
) -> list[tuple[str, tuple[int | None, ...]]]:
    """Return (name, shape of one example) of the floating-point outputs, measured where that is possible."""
    if predict is not None:
        stack = examples.inputs(np.zeros(1, np.int64))
        measured = examples.feeding.predict(predict, stack)
        order = [o.name for o in outputs] or list(measured)
        return [(n, measured[n].shape[1:]) for n in order if n in measured and measured[n].dtype.kind == "f"]
    result = []
    for item in outputs:
        if item.numpy is not None and item.numpy.kind == "f":
            dims = example_dims(item, examples.feeding)
            result.append((item.name, tuple(d if isinstance(d, int) else None for d in dims)))
    return result


def _scale(
    examples: Examples, inputs: Sequence[TensorLike], options: DataOptions, predict: Predict | None, seed: int
) -> tuple[dict[str, Fit], tuple[str, ...], tuple[str, ...]]:
    """Return the fits with their scaling, notes and warnings."""
    fits = dict(examples.fits)
    floats = [i.name for i in inputs if fits[i.name].dtype.kind in "fV"]
    notes: list[str] = []
    warnings: list[str] = []
    undecided = []
    for name in floats:
        whole = examples.columns[name].dtype.kind in "iub"
        affine = scaling.given(options, whole, _channels(fits[name], examples.columns[name]))
        if affine is not None:
            fits[name] = replace(fits[name], affine=affine)
            notes.append(f"'{fits[name].key or name}' {affine.words()}")
        elif whole:
            undecided.append(name)
    for name in undecided:
        column = examples.columns[name]
        tried = scaling.candidates(column.dtype, _channels(fits[name], column))
        trial = Trial.of(examples, name, predict, seed) if len(tried) > 1 else None
        choice = scaling.choose(tried, f"{fits[name].key or name} ({column.dtype})", trial)
        fits[name] = replace(fits[name], affine=choice.affine)
        (warnings if choice.doubtful else notes).append(choice.sentence)
    return fits, tuple(notes), tuple(warnings)


def _channels(fit: Fit, column: Column) -> int | None:
    stack = fit.apply(column.take(np.zeros(1, np.int64)))
    return int(stack.shape[fit.channel_axis]) if fit.channel_axis is not None else None
