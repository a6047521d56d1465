"""What an ONNX file really stores: its tensors by name with their bytes, and its external data files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

_BLOCK = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """One initializer or Constant: its name (with the path of nested graphs) and its bytes in the file."""

    name: str
    size_bytes: int


class TensorFile:
    """A model file with its external data, read without loading that data.

    Attributes:
        proto: the model, external tensors unread.
        tensors: all tensors stored as initializers or Constant nodes, nested graphs and functions included.
        external: the files beside it that it names, each once.
        size_bytes: of the file and of those.
    """

    def __init__(self, file: Path | bytes) -> None:
        self._file = file
        if isinstance(file, bytes):
            self.proto = onnx.load_from_string(file)
            folder = Path()
        else:
            self.proto = onnx.load(file, load_external_data=False)
            folder = file.parent
        locations: dict[str, Path] = {}
        self.tensors = tuple(self._walk(folder, locations))
        self.external = tuple(path for path in locations.values() if path.is_file())
        main = len(file) if isinstance(file, bytes) else file.stat().st_size
        self.size_bytes = main + sum(path.stat().st_size for path in self.external)

    def main_blocks(self) -> Iterator[bytes]:
        """Yield the contents of the file itself, block by block."""
        if isinstance(self._file, bytes):
            yield self._file
        else:
            yield from _blocks(self._file)

    def blocks(self) -> Iterator[bytes]:
        """Yield the contents of the file, then of its external data, block by block."""
        yield from self.main_blocks()
        for path in self.external:
            yield from _blocks(path)

    def _walk(self, folder: Path, locations: dict[str, Path]) -> Iterator[StoredTensor]:
        for name, tensor in _tensors(self.proto):
            yield StoredTensor(name, _stored_bytes(tensor, folder, locations))


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    yield from _graph_tensors(proto.graph, "")
    for function in proto.functions:
        yield from _node_tensors(function.node, f"{function.domain}.{function.name}/")


def _graph_tensors(graph: onnx.GraphProto, prefix: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield prefix + tensor.name, tensor
    for sparse in graph.sparse_initializer:
        yield prefix + sparse.values.name, sparse.values
        yield prefix + sparse.values.name + ".indices", sparse.indices
    yield from _node_tensors(graph.node, prefix)


def _node_tensors(nodes: Iterable[onnx.NodeProto], prefix: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    labels: set[str] = set()
    for index, node in enumerate(nodes):
        nested = [a for a in node.attribute if a.HasField("g")]
        if nested:
            # The same paths as in core.model.subgraphs: names of nodes need not be there, or unique.
            label = node.name if node.name and node.name not in labels else f"{node.op_type}_{index}"
            labels.add(label)
            for attribute in nested:
                yield from _graph_tensors(attribute.g, f"{prefix}{label}.{attribute.name}/")
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield prefix + node.output[0], attribute.t
                elif attribute.name in ("value_float", "value_floats"):
                    floats = attribute.floats or [attribute.f]
                    yield prefix + node.output[0], onnx.TensorProto(float_data=floats)


def _stored_bytes(tensor: onnx.TensorProto, folder: Path, locations: dict[str, Path]) -> int:
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return len(tensor.raw_data) if tensor.HasField("raw_data") else _typed_bytes(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = folder / entries.get("location", "")
    locations.setdefault(entries.get("location", ""), path)
    if "length" in entries:
        return int(entries["length"])
    return max(0, path.stat().st_size - int(entries.get("offset", 0))) if path.is_file() else 0


def _typed_bytes(tensor: onnx.TensorProto) -> int:
    """Return what the values take that are kept in a field of their type, integers in variable length."""
    fixed = 4 * len(tensor.float_data) + 8 * len(tensor.double_data)
    if fixed:
        return fixed
    rest = onnx.TensorProto()
    for field in ("int32_data", "int64_data", "uint64_data", "string_data"):
        getattr(rest, field).extend(getattr(tensor, field))
    return int(rest.ByteSize())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            yield block
