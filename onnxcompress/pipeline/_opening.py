"""Opening: the model as it came, and what methods may be trained on; what they lack is told first."""

from __future__ import annotations

from dataclasses import dataclass

from onnxcompress import gates
from onnxcompress.core.errors import UsageError
from onnxcompress.core.task import Task
from onnxcompress.engine.data import Examples
from onnxcompress.methods._base import Method, Needs
from onnxcompress.pipeline import _data as datasets
from onnxcompress.pipeline import _original as originals
from onnxcompress.pipeline._compared import COMPARED_EXAMPLES
from onnxcompress.pipeline._lists import check_lists
from onnxcompress.pipeline._original import Original
from onnxcompress.pipeline._repeatable import check_repeatable
from onnxcompress.pipeline._request import Request
from onnxcompress.recipe import TASK_OPTIONS

RANDOM_EXAMPLES = 512
"""Random examples that --random-data (``random`` in a recipe) makes, unless --limit says otherwise."""


@dataclass(frozen=True)
class Opened:
    """What a compression begins with.

    Attributes:
        original: the model as it came.
        task: what it may be trained on; None: nothing.
        computed: the nodes whose results became weights.
    """

    original: Original
    task: Task | None
    computed: tuple[str, ...]


def opened(request: Request) -> Opened:
    """Return the model, what it may be trained on, and what was changed already.

    Raises:
        UsageError: a method needs data, or labels, that are not there.
    """
    original = originals.open_original(request.source, request.threads)
    # Before anything runs: a model may run at the sizes of the data only.
    data = datasets.read(original, request.recipe.data)
    original = datasets.with_sizes(original, request.input_shapes, data)
    check_repeatable(original, request.recipe.seed)
    stores = request.fold and not request.recipe.methods[0].folds
    original, computed = originals.with_stored_weights(original) if stores else (original, ())
    check_lists(request.recipe, original.model)
    task = _task(request, original, data)
    for method in request.recipe.methods:
        _check_needs(method, task)
    if task is not None:  # only now is it known whether labels are used
        gates.check(request.limits, benchmark=request.benchmark, data=task.labelled)
        _look_through(request, task)
    return Opened(datasets.with_sizes_of_task(original, task, request.input_shapes), task, computed)


def _task(request: Request, original: Original, data: datasets.Given) -> Task | None:
    """Return what the methods may train on; None where no data was given."""
    options, seed = request.recipe.data, request.recipe.seed
    random = options.get("random", False)
    usable = TASK_OPTIONS if random else ()
    unused = [name for name in options if name not in usable and name not in ("path", "random")]
    if unused and options.get("path") is None:
        flag = "--" + unused[0].replace("_", "-")
        raise UsageError(f"{flag} says what to do with --data", why="none is given")
    if options.get("path") is not None:
        return datasets.data_task(original, data, seed)
    if not random:
        return None
    examples = datasets.random_examples(original, options.get("limit") or RANDOM_EXAMPLES, seed)
    return datasets.task_of(original, examples, options, seed)


def _look_through(request: Request, task: Task) -> None:
    """Read what the result will be judged by: an example that cannot be read must not cost a training.

    Raises:
        DataError: NaN, or a file that cannot be read.
    """
    trains = any(method.trains for method in request.recipe.methods)
    if task.random or not trains or not isinstance(task.samples, Examples):
        return
    request.resources.progress(0.0, "reading validation and test examples", None)
    task.samples.look_through(task.validation)
    if task.test is not None:
        task.samples.look_through(task.test if task.labelled else task.test[:COMPARED_EXAMPLES])


def _check_needs(method: Method, task: Task | None) -> None:
    if method.needs is not Needs.NOTHING and task is None:
        raise UsageError(f"method {method.name!r} needs data", fix="give inputs with --data")
    if method.needs is Needs.LABELS and task is not None and not task.labelled:
        raise UsageError(f"method {method.name!r} needs labels", fix="name them with --labels")
