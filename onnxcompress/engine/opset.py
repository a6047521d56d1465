"""The default operator set of a model, raised with onnx's own converter where something needs a later one."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxcompress.core.errors import OnnxCompressError
from onnxcompress.core.model import Model
from onnxcompress.engine.dense_proto import Same, rebuilt, serialised


def version(proto: onnx.ModelProto) -> int:
    """Return the version of the default operator set; 0 where there is none."""
    versions = {entry.domain: int(entry.version) for entry in proto.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def raised(proto: onnx.ModelProto, least: int) -> onnx.ModelProto | None:
    """Return the model at the least operator set, None where onnx's converter does not know how.

    What is not the converter's business (weights, inputs, outputs, declared shapes, metadata) stays as it is.
    """
    if version(proto) >= least:
        return proto
    if proto.graph.sparse_initializer or proto.functions or proto.training_info:
        return None  # the converter forgets these
    try:
        converted = onnx.version_converter.convert_version(proto, least)
    except Exception:  # the converter raises whatever its parsers raise
        return None
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    del result.opset_import[:], result.graph.node[:]
    result.opset_import.extend(converted.opset_import)
    result.graph.node.extend(converted.graph.node)
    own = {tensor.name for tensor in proto.graph.initializer}
    result.graph.initializer.extend(t for t in converted.graph.initializer if t.name not in own)
    return result


def with_opset(model: Model, least: int, shapes: Mapping[str, tuple[int, ...]]) -> Model | None:
    """Return the model at the least operator set, with all its encodings, proven equal on a random input.

    Args:
        model: the model.
        least: version of the default operator set.
        shapes: concrete shapes of its inputs, as far as they are known.

    Returns:
        None where the converter does not know how, where the result computes something else, or where the
        model is larger than 2 GiB.
    """
    try:
        original = serialised(model)
        proto = raised(onnx.ModelProto.FromString(original), least)
        if proto is None or not Same(model, original, shapes).holds(proto):
            return None
    except OnnxCompressError:
        return None
    found = rebuilt(model, proto)
    return found if found.encodings.keys() == model.encodings.keys() else None


def reaches(model: Model, least: int, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Tell whether the model has the least operator set, or is written with it (``with_opset``)."""
    return model.opset >= least or with_opset(model, least, shapes) is not None
