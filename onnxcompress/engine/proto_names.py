"""Names of a graph hidden from what makes new ones of them, and given back afterwards.

A tool that calls the scale of ``x`` ``x_scale`` overlooks that the graph may have a value of that name: of an
earlier run of the same tool, for example. Behind marks no name can be another's beginning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import onnx

_MARK = re.compile(r"\{[nv][0-9]+\}")


class Hidden:
    """The names of a model's graph, nested ones included, replaced by marks in a copy.

    Args:
        proto: the model; it is not changed.

    Attributes:
        proto: the copy.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._values: dict[str, str] = {}
        self._nodes: dict[str, str] = {}
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(proto)
        _rename(self.proto.graph, self.value, self.node)
        self._meant = {mark: name for names in (self._values, self._nodes) for name, mark in names.items()}

    def value(self, name: str) -> str:
        """Return the mark of a value or tensor."""
        return self._values.setdefault(name, f"{{v{len(self._values)}}}")

    def node(self, name: str) -> str:
        """Return the mark of a node."""
        return self._nodes.setdefault(name, f"{{n{len(self._nodes)}}}")

    def told(self, text: str) -> str:
        """Return what somebody says of the copy with the names it means."""
        return _MARK.sub(lambda found: self._meant.get(found[0], found[0]), text)

    def reveal(self, proto: onnx.ModelProto) -> None:
        """Give a graph made of the copy the names back, in place; new ones that are taken get strokes."""
        given = [{mark: name for name, mark in names.items()} for names in (self._values, self._nodes)]
        taken = [set(names.values()) for names in given]

        def named(mark: str, kind: int) -> str:
            if mark not in given[kind]:
                name = self.told(mark)
                while name in taken[kind]:
                    name += "'"
                taken[kind].add(name)
                given[kind][mark] = name
            return given[kind][mark]

        _rename(proto.graph, lambda mark: named(mark, 0), lambda mark: named(mark, 1))


def _rename(graph: onnx.GraphProto, value: Callable[[str], str], node: Callable[[str], str]) -> None:
    """Change every name of a graph and of those nested in it; what has none keeps none."""
    for inner in _graphs(graph):
        sparse = [tensor.values for tensor in inner.sparse_initializer]
        for named in (*inner.input, *inner.output, *inner.value_info, *inner.initializer, *sparse):
            named.name = value(named.name)
        for annotation in inner.quantization_annotation:
            annotation.tensor_name = value(annotation.tensor_name)
            for entry in annotation.quant_parameter_tensor_names:
                entry.value = value(entry.value)
        for one in inner.node:
            if one.name:
                one.name = node(one.name)
            for names in (one.input, one.output):
                names[:] = [value(name) if name else "" for name in names]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _graphs(nested)
