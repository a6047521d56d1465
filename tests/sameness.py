"""When two ModelProtos are the same model: an oracle on protobuf fields alone, without onnx_ir.

Equal are: a field left out and the same field at its default; `value_info` in another order (a set by
name); operator sets and metadata in another order; trailing empty names of optional outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx

_SETS = {
    "value_info": lambda v: v.name,
    "opset_import": lambda v: v.domain,
    "metadata_props": lambda v: v.key,
    "quantization_annotation": lambda v: v.tensor_name,
}


def differences(a: Any, b: Any, path: str = "model") -> Iterator[str]:
    """Yield what differs between two messages; nothing where they are the same."""
    if isinstance(a, onnx.TensorProto):
        if _tensor(a) != _tensor(b):
            yield f"{path}: tensor {a.name!r} differs"
        return
    fields_a, fields_b = _fields(a), _fields(b)
    for name in sorted(fields_a.keys() | fields_b.keys()):
        x, y, where = fields_a.get(name), fields_b.get(name), f"{path}.{name}"
        if x is None or y is None:
            yield f"{where}: {'gained' if x is None else 'lost'}"
        elif a.DESCRIPTOR.fields_by_name[name].message_type is None:
            if not _equal(x, y):
                yield f"{where}: {x!r} became {y!r}"
        elif isinstance(x, list):
            if len(x) != len(y):
                yield f"{where}: {len(x)} became {len(y)}"
            for p, q in zip(x, y, strict=False):
                yield from differences(p, q, where)
        else:
            yield from differences(x, y, where)


def _tensor(tensor: onnx.TensorProto) -> bytes:
    if tensor.data_location == onnx.TensorProto.DEFAULT and tensor.HasField("data_location"):
        tensor = onnx.TensorProto.FromString(tensor.SerializeToString())
        tensor.ClearField("data_location")
    return bytes(tensor.SerializeToString(deterministic=True))


def _fields(message: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in _SETS:
            found[field.name] = sorted(
                {_SETS[field.name](v): v for v in value}.values(), key=_SETS[field.name]
            )
        elif hasattr(value, "ByteSize"):
            if value.ByteSize():
                found[field.name] = value
        elif hasattr(value, "append"):
            found[field.name] = list(value)
            if isinstance(message, onnx.NodeProto) and field.name == "output":
                while found["output"] and not found["output"][-1]:
                    found["output"].pop()
        elif value not in ("", b"", 0):
            found[field.name] = value
    return found


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, list):
        return len(x) == len(y) and all(map(_equal, x, y))
    return bool(x == y or (isinstance(x, float) and np.isnan(x) and np.isnan(y)))
