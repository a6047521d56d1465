"""Random inputs that onnxruntime accepts: concrete shapes for open dimensions, values the model can take.

Shapes are found by trying: dimensions of one name have one size, sizes are tried from what their place
suggests (batch, image side, sequence), and the first that runs with finite outputs is taken.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, OnnxCompressError, UnsupportedError, UsageError
from onnxcompress.core.model import Model
from onnxcompress.engine.input_values import Draw, draws
from onnxcompress.engine.measures.shapes import largest_value
from onnxcompress.engine.runtime import OrtSession
from onnxcompress.engine.tensor_info import TensorInfo, numpy_type

Shapes = dict[str, tuple[int, ...]]
_Attempt = tuple[dict[str, int], dict[str, Draw]]
"""Sizes of the open dimensions, and how each input is drawn."""

_BUDGET_S = 30.0
_LARGEST_ELEMENTS = 1 << 25
"""Sizes are not chosen where a single value between would have more elements than this, while smaller ones
are left: attention over the pixels of a picture has as many as the square of their number."""
_DRAWS = "onnxcompress.draws"  # in the graph's meta: which of the possible draws each input got

_SMALL = 64
"""Lengths of which none makes a model large."""

_BATCH = (1, 2, 4, 8)
_SPACE = (224, 256, 320, 512, 640, 128, 64, 48, 32, 28, 96, 299, 1, 16)
_CHANNELS = (3, 1, 4, 2, 8, 16, 32, 64, 128)
_SEQUENCE = (32, 64, 128, 16, 8, 256, 512, 1024, 100, 80, 40, 4, 3, 2, 1, 576, 2048, 160, 257, 16000)
_SIGNAL = (16000, 512, 576, 1024, 4096, 32000, 48000, 256, 160, 480, *_SEQUENCE)
_PAST = (8, 0, 16, 32, 1)


def random_feeds(
    infos: Sequence[TensorInfo],
    *,
    seed: int,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    examples: int = 1,
    model: Model | None = None,
) -> list[dict[str, Array]]:
    """Return seeded random inputs of the declared types.

    Args:
        infos: the inputs.
        seed: of the one generator used; the same seed gives the same inputs.
        shapes: input name -> shape, as ``resolve_shapes`` finds them; others get a plausible size.
        examples: how many feeds.
        model: lets values respect the graph (indices inside their table, constants compared with), and
            be drawn the way ``resolve_shapes`` found to give finite outputs.

    Raises:
        UsageError: a shape does not fit its input.
    """
    rng = np.random.default_rng(seed)
    concrete = _Dimensions(infos, shapes or {}).shapes(next(_Dimensions(infos, shapes or {}).candidates()))
    chosen: Mapping[str, Draw] = {} if model is None else model.ir.graph.meta.get(_DRAWS, {})
    ways = {i.name: chosen.get(i.name) or draws(i, model)[0] for i in infos}
    return [_draw(infos, concrete, ways, rng, model) for _ in range(examples)]


def resolve_shapes(
    model: Model, session: OrtSession, given: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, tuple[int, ...]]:
    """Return a concrete shape for every input, such that onnxruntime runs and outputs are finite.

    How values must be drawn for that is noted in the graph's ``meta`` and respected by ``random_feeds``.

    Args:
        model: the model.
        session: the same model in onnxruntime.
        given: shapes the user fixed; they also fix dimensions of the same name in other inputs.

    Raises:
        UsageError: ``given`` names no input, or does not fit one.
        UnsupportedError: nothing that was tried runs; quotes onnxruntime and names ``--input-shape``.
    """
    infos = session.inputs
    dimensions = _Dimensions(infos, given or {})
    possible = {info.name: draws(info, model) for info in infos}
    first: OnnxCompressError | None = None
    fallback: tuple[Shapes, dict[str, Draw]] | None = None
    deadline = time.monotonic() + _BUDGET_S
    for sizes, ways in _moderate_first(_attempts(dimensions, possible), dimensions, model):
        shapes = dimensions.shapes(sizes)
        try:
            outputs = session.run(_draw(infos, shapes, ways, np.random.default_rng(0), model))
        except (UnsupportedError, DataError) as error:
            first = first or error
        else:
            if _informative(outputs):
                model.ir.graph.meta[_DRAWS] = ways
                return shapes
            fallback = fallback or (shapes, ways)
        if time.monotonic() > deadline:
            break
    if fallback is not None:  # it runs; outputs are empty or not finite whatever is drawn
        model.ir.graph.meta[_DRAWS] = fallback[1]
        return fallback[0]
    raise UnsupportedError(
        "found no inputs that onnxruntime accepts",
        where=model.source.path,
        why=None if first is None else f"it says: {first.why or first.what}",
        fix="give their shapes with --input-shape NAME:1,3,224,224",
    )


_PATIENCE = 20
"""Attempts with moderate sizes, after which large ones are no longer put off."""


def _moderate_first(
    attempts: Iterator[_Attempt], dimensions: _Dimensions, model: Model
) -> Iterator[_Attempt]:
    """Yield what takes a moderate amount of memory before what does not, which may be all that runs."""
    moderate, large, made = _Moderate(model), list[_Attempt](), 0
    for attempt in attempts:
        if made < _PATIENCE and not moderate(attempt[0], dimensions.shapes(attempt[0])):
            large.append(attempt)
            continue
        yield attempt
        made += 1
        if made == _PATIENCE:
            yield from large
            large.clear()
    yield from large


class _Moderate:
    """Tells sizes that take a moderate amount of memory: what has larger ones than one that does not has not.

    What shape inference cannot follow counts as moderate.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._known: dict[tuple[int, ...], bool] = {}

    def __call__(self, sizes: Mapping[str, int], shapes: Shapes) -> bool:
        """Tell whether these sizes of open dimensions, and the shapes they make, are moderate."""
        key = tuple(sizes.values())
        if not any(size > _SMALL for size in key):
            return True
        if key not in self._known:
            larger = (k for k, fine in self._known.items() if not fine)
            beyond = any(all(a >= b for a, b in zip(key, k, strict=True)) for k in larger)
            self._known[key] = not beyond and largest_value(self._model.ir, shapes) <= _LARGEST_ELEMENTS
        return self._known[key]


def _attempts(dimensions: _Dimensions, possible: Mapping[str, tuple[Draw, ...]]) -> Iterator[_Attempt]:
    """Yield sizes with ways to draw: every likely size with the first way, then the other ways too."""
    ways = list(_ways(possible))
    for sizes in dimensions.candidates():
        yield sizes, ways[0]
    for sizes in itertools.islice(dimensions.candidates(), 40):
        for way in ways[1:]:
            yield sizes, way


def _ways(possible: Mapping[str, tuple[Draw, ...]]) -> Iterator[dict[str, Draw]]:
    """Yield choices of a draw for each input: first thoughts, second thoughts together, then one by one."""
    most = max((len(p) for p in possible.values()), default=1)
    for rank in range(most):
        yield {name: p[min(rank, len(p) - 1)] for name, p in possible.items()}
    if len(possible) > 1:
        for name, alternatives in possible.items():
            for draw in alternatives[1:]:
                yield {n: draw if n == name else p[0] for n, p in possible.items()}


def _informative(outputs: Mapping[str, Any]) -> bool:
    """Return whether all outputs are finite and not all of them empty."""
    arrays = [a for a in outputs.values() if isinstance(a, np.ndarray)]
    for array in arrays:
        if array.dtype.kind in "fcV" and array.dtype.kind != "V" and not np.isfinite(array).all():
            return False
    return not arrays or any(a.size for a in arrays)


def _draw(
    infos: Sequence[TensorInfo],
    shapes: Shapes,
    ways: Mapping[str, Draw],
    rng: np.random.Generator,
    model: Model | None,
) -> dict[str, Array]:
    longest = _longest(infos, shapes, model)
    feeds: dict[str, Any] = {}
    for info in infos:
        if info.numpy is not None:
            feeds[info.name] = ways[info.name].array(rng, info.numpy, shapes[info.name], longest)
        elif info.dtype.startswith("seq("):
            element = numpy_type(info.dtype[4:-1]) or np.dtype(np.float32)
            feeds[info.name] = [ways[info.name].array(rng, element, (2, 3), longest) for _ in range(2)]
    return feeds


def _longest(infos: Sequence[TensorInfo], shapes: Shapes, model: Model | None) -> int:
    """Return the longest dimension that is open, else the longest of all.

    The model says what is open: where it was opened with sizes filled in, a length is still no number of
    features.
    """
    declared: dict[str, Sequence[object]] = {i.name: i.shape for i in infos}
    if model is not None:
        declared |= {v.name: tuple(v.shape) for v in model.ir.graph.inputs if v.name and v.shape is not None}
    sizes = [
        (size, isinstance(d, int))
        for i in infos
        for size, d in zip(shapes[i.name], declared[i.name], strict=False)
    ]
    return max([s for s, fixed in sizes if not fixed] or [s for s, _ in sizes], default=1)


class _Dimensions:
    """The open dimensions of all inputs: which are one, what each may be, what each becomes."""

    def __init__(self, infos: Sequence[TensorInfo], given: Mapping[str, tuple[int, ...]]) -> None:
        self.infos = infos
        self.bound: dict[str, int] = {}
        known = {i.name: i for i in infos}
        for name, shape in given.items():
            if name not in known:
                listed = ", ".join(repr(n) for n in known)
                raise UsageError(
                    f"the model has no input {name!r} to give a shape to", fix=f"it has {listed}"
                )
            self._bind(known[name], tuple(shape))
        self.given = {name: tuple(shape) for name, shape in given.items()}
        self.open: dict[str, tuple[int, ...]] = {}
        for info in infos:
            if info.name in self.given:
                continue
            for axis, size in enumerate(info.shape):
                key = _key(info, axis)
                if not isinstance(size, int) and key not in self.bound:
                    wanted = _sizes(info, axis)
                    if key not in self.open or self.open[key] is _BATCH:
                        self.open[key] = wanted if key not in self.open else self._narrower(key, wanted)
        self.derived = {k: _expression(k, set(self.open) | set(self.bound)) for k in self.open}
        for key, parsed in self.derived.items():
            if parsed is not None:
                self.open.pop(key)

    def _narrower(self, key: str, wanted: tuple[int, ...]) -> tuple[int, ...]:
        return self.open[key] if wanted is not _BATCH else wanted

    def _bind(self, info: TensorInfo, shape: tuple[int, ...]) -> None:
        declared = list(info.shape)
        fits = len(shape) == len(declared) and all(
            d == s or not isinstance(d, int) for d, s in zip(declared, shape, strict=True)
        )
        if not fits or any(s < 0 for s in shape):
            shown = ",".join("?" if d is None else str(d) for d in declared)
            raise UsageError(
                f"shape {','.join(map(str, shape))} does not fit input {info.name!r}", why=f"it is {shown}"
            )
        for axis, size in enumerate(shape):
            if isinstance(declared[axis], str):
                self.bound[_key(info, axis)] = size

    def candidates(self) -> Iterator[dict[str, int]]:
        """Yield sizes for the open dimensions: all equally likely ones, then one changed, then mixed."""
        keys = list(self.open)
        if not keys:
            yield {}
            return
        longest = max(len(c) for c in self.open.values())
        for rank in range(longest):
            yield {
                k: self.open[k][min(rank, len(self.open[k]) - 1)] if self.open[k] is not _BATCH else 1
                for k in keys
            }
        for key in keys:
            for size in self.open[key][1:]:
                yield {k: size if k == key else self.open[k][0] for k in keys}
        rng = np.random.default_rng(0)
        for _ in range(200):
            yield {k: int(rng.choice(self.open[k])) for k in keys}

    def shapes(self, sizes: Mapping[str, int]) -> Shapes:
        """Return the shape of every input for these sizes."""
        values = {**sizes, **self.bound}
        for key, parsed in self.derived.items():
            if parsed is not None and key not in values:
                values[key] = max(_evaluate(parsed, values), 0)
        return {i.name: self.given.get(i.name) or self._shape(i, values) for i in self.infos}

    def _shape(self, info: TensorInfo, values: Mapping[str, int]) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else values[_key(info, a)] for a, d in enumerate(info.shape))


def _key(info: TensorInfo, axis: int) -> str:
    name = info.shape[axis]
    return name if isinstance(name, str) else f"{info.name}[{axis}]"


def _sizes(info: TensorInfo, axis: int) -> tuple[int, ...]:
    """Return the sizes to try for one open dimension, from its name and place."""
    name, rank = _key(info, axis).lower(), len(info.shape)
    if "past" in name and "+" not in name:
        return _PAST
    if "batch" in name or (axis == 0 and name in {"n", "b", "bs"}):
        return _BATCH
    if any(word in name for word in ("seq", "token", "length", "time", "frames")):
        return _SEQUENCE
    if "height" in name or "width" in name or name in {"h", "w"}:
        return _SPACE
    if "channel" in name or name == "c":
        return _CHANNELS
    if axis == 1 and rank == 3 and isinstance(info.shape[0], int) and isinstance(info.shape[2], int):
        return tuple(dict.fromkeys((1, *_SEQUENCE)))  # the state of a recurrent layer: layers, batch, units
    if axis == 0:
        return _BATCH if rank > 1 else tuple(dict.fromkeys((1, *_SEQUENCE)))
    if rank >= 4:
        last = info.shape[-1]
        channels = rank - 1 if isinstance(last, int) and last in {1, 3, 4} else 1
        return _CHANNELS if axis == channels else _SPACE
    is_float = info.numpy is not None and info.numpy.kind in "fV"
    is_signal = is_float and (rank == 2 or (rank == 3 and axis == 2 and info.shape[1] == 1))
    return _SIGNAL if is_signal else _SEQUENCE


_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
}


def _expression(name: str, known: set[str]) -> ast.expr | None:
    """Parse ``past_sequence_length + 1`` or ``total_sequence_length``; None for a name that stands alone."""
    if re.fullmatch(r"total_seq\w*", name):
        parts = [k for k in sorted(known) if k != name and re.fullmatch(r"(past_)?seq\w*", k)]
        return ast.parse(" + ".join(parts), mode="eval").body if len(parts) == 2 else None
    try:
        parsed = ast.parse(name, mode="eval").body
    except (SyntaxError, ValueError):
        return None
    names = {n.id for n in ast.walk(parsed) if isinstance(n, ast.Name)}
    is_arithmetic = isinstance(parsed, ast.BinOp) and names and names <= known
    return parsed if is_arithmetic and _is_evaluable(parsed) else None


def _is_evaluable(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return type(node.op) in _OPERATORS and _is_evaluable(node.left) and _is_evaluable(node.right)
    return isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and isinstance(node.value, int))


def _evaluate(node: ast.expr, values: Mapping[str, int]) -> int:
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, values), _evaluate(node.right, values)
        divides = isinstance(node.op, (ast.Div, ast.FloorDiv))
        return left if divides and right == 0 else int(_OPERATORS[type(node.op)](left, right))
    if isinstance(node, ast.Name):
        return values.get(node.id, 1)
    assert isinstance(node, ast.Constant)
    return int(node.value)  # type: ignore[arg-type]
