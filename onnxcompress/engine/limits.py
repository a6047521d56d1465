"""What a file from a stranger may claim: checked before its graph is built or any tensor is read.

Every function yields sentences; an empty result means the model stays inside the limits.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import onnx
import onnx_ir as ir

MAX_FILE_BYTES = 2**31 - 1
"""A protobuf message cannot be larger."""

MAX_TENSOR_BYTES = 2**37
"""Bytes of all tensors together, external data included."""

MAX_NODES = 2_000_000
"""Nodes after every function call is expanded; onnxruntime expands them all while it loads."""

MAX_NESTING = 60
"""Graphs inside attributes of graphs."""

FunctionId = tuple[str, str, str]


def problems(model: onnx.ModelProto, folder: Path | None) -> Iterator[str]:
    """Yield everything that forbids to go on with this model.

    Args:
        model: parsed without its external data.
        folder: the folder that external data must lie in; None where there is none (a model in memory).
    """
    yield from _expansion(model)
    total = 0
    files: dict[str, str | None] = {}  # location of external data -> why it must not be opened
    for where, tensor in tensors(model):
        found = list(_tensor(where, tensor, folder, files))
        yield from found
        if not found:
            total += _expected_bytes(tensor)
    for sparse in model.graph.sparse_initializer:
        if all(d >= 0 for d in sparse.dims):
            total += math.prod(sparse.dims) * 8
    if total > MAX_TENSOR_BYTES:
        yield f"its tensors take {total} bytes, more than {MAX_TENSOR_BYTES}"


def tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Yield every tensor of the file with the words for its place."""
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for training in model.training_info:
        graphs += [training.initialization, training.algorithm]
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _attribute_tensors(attribute, f"function {function.name!r}")
    for graph in graphs:
        yield from _graph_tensors(graph)


def _graph_tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    if isinstance(graph, onnx.GraphProto):
        yield from ((f"weight {t.name!r}", t) for t in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield f"values of sparse weight {sparse.values.name!r}", sparse.values
            yield f"indices of sparse weight {sparse.values.name!r}", sparse.indices
    for node in graph.node:
        label = node.output[0] if node.output else node.name
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute, f"{node.op_type} node {label!r}")


def _attribute_tensors(attribute: onnx.AttributeProto, where: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    if attribute.HasField("t"):
        yield f"tensor of {where}", attribute.t
    for tensor in attribute.tensors:
        yield f"tensor of {where}", tensor
    sparse = [
        *attribute.sparse_tensors,
        *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
    ]
    for tensor in (t for s in sparse for t in (s.values, s.indices)):
        yield f"tensor of {where}", tensor
    for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
        yield from _graph_tensors(graph)


def _tensor(
    where: str, tensor: onnx.TensorProto, folder: Path | None, files: dict[str, str | None]
) -> Iterator[str]:
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        yield f"{where} has an unsupported element type (number {tensor.data_type})"
        return
    if any(d < 0 for d in tensor.dims):
        yield f"{where} has a negative dimension in its shape {list(tensor.dims)}"
        return
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from _external(where, tensor, folder, files)
    elif dtype == ir.DataType.STRING:
        if len(tensor.string_data) != math.prod(tensor.dims):
            yield f"{where} holds {len(tensor.string_data)} strings in the shape {list(tensor.dims)}"
    elif tensor.HasField("raw_data"):
        if len(tensor.raw_data) != _expected_bytes(tensor):
            yield (
                f"{where} holds {len(tensor.raw_data)} bytes where its shape {list(tensor.dims)} and type "
                f"{dtype.name.lower()} need {_expected_bytes(tensor)}"
            )
    elif math.prod(tensor.dims) and not (
        tensor.float_data
        or tensor.int32_data
        or tensor.int64_data
        or tensor.double_data
        or tensor.uint64_data
    ):
        yield f"{where} has the shape {list(tensor.dims)} and no data"


def _expected_bytes(tensor: onnx.TensorProto) -> int:
    dtype = ir.DataType(tensor.data_type)
    if dtype == ir.DataType.STRING:
        return sum(map(len, tensor.string_data))
    return -(-int(math.prod(tensor.dims)) * int(dtype.bitwidth) // 8)


def _external(
    where: str, tensor: onnx.TensorProto, folder: Path | None, files: dict[str, str | None]
) -> Iterator[str]:
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if folder is None:
        yield f"{where} refers to external data {location!r}, and a model in memory has no folder to look in"
        return
    if location not in files:
        files[location] = location_problem(folder, location)
        if files[location] is not None:  # told once, for the first of its tensors
            yield f"external data of {where} {files[location]}"
    if files[location] is not None:
        return
    needed = _expected_bytes(tensor)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or needed)
    except ValueError:
        yield f"external data of {where} has an offset or length that is not a number"
        return
    if length != needed or offset < 0:
        yield (
            f"external data of {where} states {length} bytes at offset {offset} where its shape "
            f"{list(tensor.dims)} needs {needed} bytes"
        )
        return
    size = (folder / location).stat().st_size
    if offset + length > size:
        yield (
            f"external data file {location!r} is too short for {where}: it has {size} bytes, "
            f"{offset + length} are needed"
        )


def location_problem(folder: Path, location: str) -> str | None:
    """Return why this external data file must not be opened, None if it may be.

    The file must be a regular file of its own (no second hard link) inside the model's folder, with links
    resolved: otherwise a model could make us copy any file of the machine into its output.
    """
    if not location or "\0" in location:
        return "names no file"
    if Path(location).is_absolute() or location.startswith(("/", "\\")) or ".." in Path(location).parts:
        return f"lies outside the model's folder ({location!r})"
    path = folder / location
    try:
        resolved, root = path.resolve(strict=True), folder.resolve(strict=True)
        status = resolved.stat()
    except FileNotFoundError:
        return f"is missing: there is no file {location!r} beside the model"
    except (OSError, RuntimeError) as error:
        return f"cannot be read: {location!r}: {getattr(error, 'strerror', None) or error}"
    if not resolved.is_relative_to(root):
        return f"lies outside the model's folder ({location!r} is a link that leads out of it)"
    if not stat.S_ISREG(status.st_mode):
        return f"is not a regular file ({location!r})"
    if status.st_nlink > 1:
        return f"is a hard link shared with another place ({location!r}); copy the file"
    if not os.access(resolved, os.R_OK):
        return f"cannot be read: {location!r}: permission denied"
    return None


def external_files(model: onnx.ModelProto) -> frozenset[str]:
    """Return the locations of all external data."""
    return frozenset(
        entry.value
        for _, tensor in tensors(model)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    )


def _expansion(model: onnx.ModelProto) -> Iterator[str]:
    """Bound the nodes after expanding calls: a few hundred bytes of nested functions can mean 2^60 nodes."""
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    under_way: set[FunctionId] = set()

    @cache
    def expanded(identity: FunctionId) -> int:
        if identity in under_way:
            raise _TooMuchError(f"function {identity[1]!r} calls itself")
        under_way.add(identity)
        count = _nodes(functions[identity].node, 1)
        under_way.discard(identity)
        return count

    def _nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        if depth > MAX_NESTING:
            raise _TooMuchError(f"graphs or functions are nested more than {MAX_NESTING} deep")
        count = 0
        for node in nodes:
            identity = (node.domain, node.op_type, node.overload)
            count += expanded(identity) if identity in functions else 1
            for attribute in node.attribute:
                for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                    count += _nodes(graph.node, depth + 1)
        return count

    try:
        count = _nodes(model.graph.node, 0)
    except _TooMuchError as error:
        yield str(error)
    except RecursionError:
        yield "functions call each other too deeply"
    else:
        if count > MAX_NODES:
            shown = str(count) if count < 10**12 else "more than 10^12"
            yield f"it has {shown} nodes once its functions are expanded, more than {MAX_NODES}"


class _TooMuchError(Exception):
    """A limit of the expansion is passed."""
