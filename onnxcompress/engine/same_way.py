"""Whether two models make an output of the same values in the same way: operator by operator.

What a decision makes of scores can differ wherever rounding turns it around, by as much as one likes, and no
tolerance tells that from a mistake. So it is not compared by numbers: where the scores are proven, and the
nodes between them and the output are the same, with equal attributes and constants, the output is right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

import onnx_ir as ir

from onnxcompress.core.model import constant_of

_DEEPEST = 500
"""Nodes behind each other, beyond which nothing is claimed."""


class _Unlike(Exception):  # noqa: N818  not an error: nothing can be claimed
    """Two ways cannot be compared."""


def same_way(before: ir.Model, after: ir.Model, output: str, ends: Collection[str]) -> bool:
    """Return whether both models make ``output`` of the values ``ends``, inputs and constants alike.

    Args:
        before: one model.
        after: the other.
        output: name of an output of both.
        ends: names of outputs of both at which the way ends.
    """
    try:
        one, other = (_Signatures(model, ends).of_output(output) for model in (before, after))
    except _Unlike:
        return False
    return one == other


class _Signatures:
    def __init__(self, model: ir.Model, ends: Collection[str]) -> None:
        self._model, self._ends = model, frozenset(ends)
        self._known: dict[ir.Value, bytes] = {}

    def of_output(self, name: str) -> bytes:
        value = next((v for v in self._model.graph.outputs if v.name == name), None)
        if value is None:
            raise _Unlike
        return self._of(value, 0, whole=True)

    def _of(self, value: ir.Value | None, depth: int, *, whole: bool = False) -> bytes:
        if value is None:
            return b"absent"
        if value not in self._known or whole:
            self._known[value] = self._look(value, depth, whole)
        return self._known[value]

    def _look(self, value: ir.Value, depth: int, whole: bool) -> bytes:
        if value.name in self._ends and not whole:
            return _digest(b"end", str(value.name).encode())
        tensor = constant_of(value)
        if tensor is not None:
            return _digest(b"constant", str((tensor.dtype, tensor.shape)).encode(), tensor.tobytes())
        node = value.producer()
        if node is None:
            return _digest(b"input", str(value.name).encode())
        if depth > _DEEPEST:
            raise _Unlike
        if node.op_identifier() in self._model.functions:
            raise _Unlike  # its body may be another
        domain = "" if node.domain == "ai.onnx" else node.domain
        version = self._model.opset_imports.get(domain)
        parts = [f"{domain}.{node.op_type}.{version}.{value.index()}".encode()]
        for name in sorted(node.attributes):
            attribute = node.attributes[name]
            if attribute.is_ref() or attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                raise _Unlike
            parts.append(ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True))
        return _digest(b"node", *parts, *(self._of(v, depth + 1) for v in node.inputs))


def _digest(*parts: bytes) -> bytes:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.digest()
