"""Concrete shapes of the values of a graph, for concrete shapes of its inputs."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime

Shape = tuple[int, ...]

MakeFeeds = Callable[[tuple[runtime.TensorInfo, ...]], Feeds]
"""Returns inputs of the shapes in question for a session's input signature."""

_INLINE_LIMIT_BYTES = 1 << 30
"""A larger model goes to onnxruntime as a file with external data: protobuf ends at 2 GiB."""


def concrete(model: ir.Model, shapes: Mapping[str, Shape]) -> ir.Model:
    """Return a clone with these input shapes, and every shape that follows from them by inference.

    Functions are inlined and Constant nodes are initializers in the clone; what the file says of shapes
    between inputs and outputs is dropped first, because it may hold for other inputs only.
    """
    clone = model.clone()
    passes.InlinePass()(clone)
    passes.LiftConstantsToInitializersPass()(clone)
    inputs = {value.name: value for value in clone.graph.inputs}
    for graph in clone.graphs():
        for node in graph:
            for value in node.outputs:
                value.shape = None
    for name, shape in shapes.items():
        inputs[name].shape = ir.Shape(shape)
    infer(clone)
    return clone


def infer(model: ir.Model) -> None:
    """Fill in the shapes that ONNX's own inference finds, nested graphs included, values propagated."""
    # A model that inference cannot follow is no failure here: its shapes are measured instead.
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    silent, logger.disabled = logger.disabled, True
    try:
        for data_prop in (True, False):
            inference = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=data_prop)
            if inference(model).modified:
                return
    finally:
        logger.disabled = silent


def shape_of(value: ir.Value) -> Shape | None:
    """Return the shape of a value where every dimension is known."""
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape.numpy())
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape.numpy())


def measure(model: ir.Model, values: Iterable[ir.Value], make_feeds: MakeFeeds) -> str | None:
    """Find the shapes of these values by one run in onnxruntime, and infer again from what was found.

    Only the shapes are exposed as outputs, not the tensors: onnxruntime frees those as it always does.

    Args:
        model: result of ``concrete``; its values get their shapes.
        values: values of the main graph without a known shape.
        make_feeds: returns the inputs of the run.

    Returns:
        Why nothing could be measured, in words; None where it was.
    """
    wanted = [v for v in values if not isinstance(v.type, (ir.SequenceType, ir.OptionalType))]
    if not wanted:
        return None
    probe, names = _with_shapes_as_outputs(model, wanted)
    try:
        with tempfile.TemporaryDirectory() as folder:
            session = runtime.open_session(_openable(probe, Path(folder)), optimization="none")
            found = session.run(make_feeds(session.inputs), list(names.values()))
    except OnnxCompressError as error:
        return str(error)
    for value in wanted:
        assert value.name is not None
        value.shape = ir.Shape(tuple(int(d) for d in np.asarray(found[names[value.name]])))
    infer(model)
    return None


def _with_shapes_as_outputs(model: ir.Model, values: Iterable[ir.Value]) -> tuple[ir.Model, dict[str, str]]:
    """Return a clone that outputs the shapes of these values, and the output's name for each."""
    clone = model.clone()
    clone.ir_version = max(clone.ir_version, 4)
    clone.graph.opset_imports.setdefault("", 13)
    by_name = {v.name: v for v in _values(clone.graph)}
    names: dict[str, str] = {}
    clone.graph.outputs.clear()
    for index, value in enumerate(values):
        assert value.name is not None
        names[value.name] = f"onnxcompress_shape_{index}"
        output = ir.val(names[value.name], dtype=ir.DataType.INT64)
        clone.graph.append(ir.Node("", "Shape", [by_name[value.name]], outputs=[output]))
        clone.graph.outputs.append(output)
    return clone, names


def _openable(model: ir.Model, folder: Path) -> bytes | Path:
    """Return the model as bytes, or as a file with external data in ``folder`` where it is large."""
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size < _INLINE_LIMIT_BYTES:
        return bytes(ir.serde.serialize_model(model).SerializeToString())
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    return path


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
