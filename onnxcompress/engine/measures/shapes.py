"""Concrete shapes of the values of a graph, for concrete shapes of its inputs."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import LEAST_IR_VERSION
from onnxcompress.core.task import Feeds
from onnxcompress.engine import runtime
from onnxcompress.engine.measures.record import read_record
from onnxcompress.engine.model_tensors import in_memory

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
    forget(clone)
    for name, shape in shapes.items():
        inputs[name].shape = ir.Shape(shape)
    infer(clone)
    return clone


def largest_value(model: ir.Model, shapes: Mapping[str, Shape]) -> int:
    """Return the elements of the largest value that a node of the main graph computes, as far as is known."""
    found = (shape_of(value) for node in concrete(model, shapes).graph for value in node.outputs)
    return max((math.prod(shape) for shape in found if shape is not None), default=0)


def forget(model: ir.Model) -> None:
    """Drop the shapes of what nodes compute."""
    for graph in model.graphs():
        for node in graph:
            for value in node.outputs:
                value.shape = None


def infer(model: ir.Model) -> None:
    """Fill in the shapes that ONNX's own inference finds, nested graphs included, values propagated."""
    # A model that inference cannot follow is no failure here: its shapes are measured instead.
    logger = logging.getLogger("onnx_ir.passes.common.shape_inference")
    silent, logger.disabled = logger.disabled, True
    try:
        for data_prop in (True, False):
            inference = passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=data_prop)
            # A type that onnx_ir has no class for (a map) ends the inference, or the reading of its result.
            with contextlib.suppress(ir.serde.SerdeError, ir.passes.PassError):
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


def measure(
    model: ir.Model, make_feeds: MakeFeeds, branches: Mapping[ir.Node, str] | None = None
) -> str | None:
    """Find shapes by one run in onnxruntime, in nested graphs too, and infer from them what did not run.

    onnxruntime records the shapes of what every node takes and gives; no tensor is kept for it. Of the nodes
    in a loop the last time counts.

    Args:
        model: result of ``concrete``; its values get their shapes and types.
        make_feeds: returns the inputs of the run.
        branches: an ``If`` -> the branch (its attribute) that it shall take whatever the inputs.

    Returns:
        Why the run failed, in words; what ran before that is known. None where it did not fail.
    """
    clone = model.clone()
    clone.ir_version = max(clone.ir_version, LEAST_IR_VERSION)
    forget(clone)  # onnxruntime may refuse to load a branch that cannot be taken with these shapes
    nodes = dict(_numbered(model, clone))
    names = {node: name for name, node in nodes.items()}
    _decide(clone, {names[node]: branch for node, branch in (branches or {}).items()})
    failure = None
    with tempfile.TemporaryDirectory() as folder:
        try:
            session = runtime.open_session(
                openable(clone, Path(folder)),
                optimization="none",
                settings={"session.disable_prepacking": "1"},  # else weights are missing from the record
                profile_to=Path(folder) / "profile",
            )
        except OnnxCompressError as error:
            return str(error)
        try:
            session.run(make_feeds(session.inputs))
        except OnnxCompressError as error:
            failure = str(error)
        record = read_record(session.end_profiling())
    for event in record:
        node = nodes.get(event["name"].removesuffix("_kernel_time"))
        if event.get("cat") == "Node" and node is not None:
            _note(node.inputs, event["args"]["input_type_shape"])
            _note([v for v in node.outputs if v.name], event["args"]["output_type_shape"])
    infer(model)
    if failure is None:
        _ask(model, make_feeds)
    return failure


def _ask(model: ir.Model, make_feeds: MakeFeeds) -> None:
    """Find the shapes in the main graph that are still unknown, by a run that hands these values out.

    Of an operator that onnxruntime takes apart into others (GroupNormalization, Mish) nothing is recorded,
    and of a value between two such operators not even by its neighbours.
    """
    no_tensors = (ir.SequenceType, ir.OptionalType)
    values = [v for node in model.graph for v in node.outputs if not isinstance(v.type, no_tensors)]
    missing = {v.name: v for v in values if v.name and shape_of(v) is None}
    if not missing:
        return
    clone = model.clone()
    clone.ir_version = max(clone.ir_version, LEAST_IR_VERSION)
    forget(clone)
    own = {v.name for v in clone.graph.outputs}
    clone.graph.outputs.extend(
        v for node in clone.graph for v in node.outputs if v.name in missing and v.name not in own
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OnnxCompressError):
        session = runtime.open_session(openable(clone, Path(folder)), optimization="none")
        for name, array in session.run(make_feeds(session.inputs), list(missing)).items():
            if isinstance(array, np.ndarray):
                value = missing[name]
                value.shape = ir.Shape(array.shape)
                # a shape without a type is none that a file could hold, and inference is told of files
                value.dtype = value.dtype or ir.DataType.from_numpy(array.dtype)
        infer(model)


def _numbered(model: ir.Model, clone: ir.Model) -> Iterator[tuple[str, ir.Node]]:
    """Rename the nodes of the clone so that names are unique; yields name and the model's own node."""
    originals = ir.traversal.RecursiveGraphIterator(model.graph)
    for index, (node, twin) in enumerate(
        zip(originals, ir.traversal.RecursiveGraphIterator(clone.graph), strict=True)
    ):
        twin.name = f"node_{index}"
        yield twin.name, node


def _decide(model: ir.Model, branches: Mapping[str, str]) -> None:
    """Replace the conditions of these Ifs, by name, by constants."""
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)) if branches else ():
        if node.name is not None and node.name in branches:
            name = f"{node.name}_condition"
            taken = ir.tensor(np.array(branches[node.name] == "then_branch"), name=name)
            value = ir.val(name, const_value=taken)
            model.graph.register_initializer(value)
            node.replace_input_with(0, value)


def _note(values: Sequence[ir.Value | None], seen: Sequence[Mapping[str, Sequence[int]]]) -> None:
    """Give values the types and shapes that were recorded; what was left out is not in the record."""
    present = [v for v in values if v is not None]
    if len(present) != len(seen):
        return  # sequences are not recorded, so that it is not known which entry is whose
    for value, entry in zip(present, seen, strict=True):
        ((dtype, shape),) = entry.items()
        if value.dtype is None and dtype.upper() in ir.DataType.__members__:
            value.dtype = ir.DataType[dtype.upper()]
        if value.const_value is None:
            value.shape = ir.Shape(shape)


def openable(model: ir.Model, folder: Path) -> bytes | Path:
    """Return the model as bytes, or as a file with external data in ``folder`` where it is large.

    Bytes hold all tensors: onnxruntime would look for their files in the current folder.
    """
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size < _INLINE_LIMIT_BYTES:
        return bytes(ir.serde.serialize_model(in_memory(model)).SerializeToString())
    path = folder / "model.onnx"
    ir.save(model, path, external_data="model.onnx.data")
    return path
