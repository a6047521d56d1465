"""A model as one proto with its weights decoded, changed by somebody else, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from onnxcompress.core.errors import OnnxCompressError, UnsupportedError
from onnxcompress.core.model import Model, constant_of
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.model_tensors import in_memory
from onnxcompress.engine.proto import from_proto, to_proto

_AGREE = 1e-4
"""Relative ℓ2 to which a changed graph must agree with the model on a random input."""


def serialised(model: Model) -> bytes:
    """Return the model with its weights decoded, as bytes; raises UnsupportedError above 2 GiB."""
    try:
        return bytes(to_proto(in_memory(model.ir)).SerializeToString())
    except ValueError as error:
        raise UnsupportedError("the model is larger than 2 GiB", why="protobuf's limit") from error


def rebuilt(model: Model, proto: onnx.ModelProto, *steps: str) -> Model:
    """Return the model whose graph is ``proto``; weights that are unchanged keep their encodings."""
    graph = from_proto(proto)
    fresh = Model(graph, model.source, {}, (*model.steps, *steps))
    kept = {}
    for name, encoding in model.encodings.items():
        weight = fresh.weights.get(name)
        if weight is None or weight.shape != encoding.shape or weight.dtype != encoding.dtype:
            continue
        tensor = constant_of(weight.value)
        if tensor is not None and np.array_equal(np.asarray(tensor.numpy()), encoding.decode()):
            kept[name] = encoding
    return Model(graph, model.source, kept, fresh.steps)


class Same:
    """Whether a graph computes what a model does, on one seeded random input.

    Args:
        model: the model.
        original: the model as :func:`serialised` gives it.
        shapes: concrete shapes of its inputs, as far as they are known.

    Raises:
        UnsupportedError: onnxruntime does not run the model.
    """

    def __init__(self, model: Model, original: bytes, shapes: Mapping[str, tuple[int, ...]]) -> None:
        session = runtime.open_session(original)
        if any(info.name not in shapes for info in session.inputs):
            shapes = feeds.resolve_shapes(model, session, shapes)
        self._feed = feeds.random_feeds(session.inputs, seed=1, shapes=shapes, model=model)[0]
        self._expected = session.run(self._feed)

    def holds(self, proto: onnx.ModelProto) -> bool:
        """Return whether all outputs agree to single precision."""
        try:
            session = runtime.open_session(proto.SerializeToString())
            found = session.run({info.name: self._feed[info.name] for info in session.inputs})
        except OnnxCompressError:
            return False
        return all(name in found and _alike(value, found[name]) for name, value in self._expected.items())


def _alike(expected: Any, found: Any) -> bool:
    if isinstance(expected, (list, tuple)):
        same = isinstance(found, (list, tuple)) and len(expected) == len(found)
        return same and all(_alike(a, b) for a, b in zip(expected, found, strict=True))
    if isinstance(expected, Mapping):
        same = isinstance(found, Mapping) and expected.keys() == found.keys()
        return same and all(_alike(expected[key], found[key]) for key in expected)
    a, b = np.asarray(expected), np.asarray(found)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind != "f":
        return np.array_equal(a, b)
    one, other = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(one)
    if not np.array_equal(finite, np.isfinite(other)):
        return False
    norm = float(np.linalg.norm(one[finite]))
    return bool(np.linalg.norm((one - other)[finite]) <= _AGREE * max(norm, 1e-6 * np.sqrt(one.size)))
