"""onnxruntime's own quantiser, driven by a decision: the only place that writes 8-bit graphs.

Methods decide (:class:`~onnxcompress.core.quantization.Quantization`), surgery cuts, the exporter encodes,
and this file rewrites the graph for 8-bit arithmetic: like surgery it turns a decision into another graph, in
the pipeline between two methods, and like surgery it is deterministic, so that the method may try a decision
here and the pipeline carries out the same. It is beside ``engine.runtime`` the only importer of onnxruntime.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.quantization import Quantization
from onnxcompress.engine import runtime
from onnxcompress.engine.int8.single_rounding import grids, round_once
from onnxcompress.engine.proto_edits import keep_declared, tapped
from onnxcompress.engine.proto_names import Hidden

MICROSOFT = "com.microsoft"


def quantized(proto: onnx.ModelProto, decision: Quantization) -> onnx.ModelProto:
    """Return the graph with 8-bit arithmetic where the decision says so; ``proto`` is not changed.

    Activations are unsigned and asymmetric, weights signed and symmetric with one scale an output channel
    (7 bits of the 8 where the decision is ``narrow``), biases 32-bit. Below operator set 13, which knows no
    scales a channel, the quantising operators are those of onnxruntime's own domain.

    Args:
        proto: a prepared model (:func:`onnxcompress.engine.int8.prepare`).
        decision: nodes and ranges.

    Raises:
        UnsupportedError: onnxruntime's quantiser refuses the model; quotes it.
    """
    from onnxruntime.quantization.onnx_model import ONNXModel  # noqa: PLC0415

    hidden = Hidden(proto)
    result, decision = hidden.proto, _marked(decision, hidden)
    sets = [(entry.domain, entry.version) for entry in proto.opset_import]
    try:
        with _quiet():
            _declare_types(result)
            del result.metadata_props[:]
            _hand_out_no_inputs(result.graph)
            if decision.static:
                result = _static(result, decision)
            if decision.dynamic:
                result = _dynamic(result, decision)
            ONNXModel(result).topological_sort()
    except Exception as error:  # Python code of another project: anything may come out of it
        raise UnsupportedError(
            "onnxruntime's quantiser cannot handle the model",
            why=hidden.told(" ".join(str(error).split()))[:300] or type(error).__name__,
        ) from error
    hidden.reveal(result)
    _restore(result, proto, sets)
    return result


def _marked(decision: Quantization, hidden: Hidden) -> Quantization:
    """Return the decision with nodes and values as they are called behind marks."""
    lists = (decision.static, decision.carriers, decision.dynamic)
    static, carriers, dynamic = (tuple(map(hidden.node, nodes)) for nodes in lists)
    ranges = {hidden.value(name): found for name, found in decision.ranges.items()}
    return replace(decision, static=static, carriers=carriers, dynamic=dynamic, ranges=ranges)


def _hand_out_no_inputs(graph: onnx.GraphProto) -> None:
    """Leave out outputs that are inputs: the quantiser would let a node make them anew."""
    given = {value.name for value in graph.input}
    outputs = [output for output in graph.output if output.name not in given]
    del graph.output[:]
    graph.output.extend(outputs)


def _declare_types(proto: onnx.ModelProto) -> None:
    """Declare the types of values that onnx cannot infer, behind operators of other domains.

    onnxruntime's quantiser asks onnx, and leaves alone what it knows no type of.
    """
    inferred = onnx.shape_inference.infer_shapes(proto).graph
    known = {v.name for v in (*inferred.input, *inferred.output, *inferred.value_info)}
    unknown = {name for node in proto.graph.node for name in node.output if name not in known}
    if not unknown:
        return
    try:
        shown = runtime.open_session(tapped(proto, sorted(unknown)).SerializeToString(), optimization="none")
    except UnsupportedError:
        return  # one of them cannot be an output; what the quantiser makes of the rest it says itself
    for info in shown.outputs:
        if info.name in unknown and info.numpy is not None:
            kind = onnx.helper.np_dtype_to_tensor_dtype(info.numpy)
            proto.graph.value_info.append(onnx.helper.make_tensor_value_info(info.name, kind, None))


def _static(proto: onnx.ModelProto, decision: Quantization) -> onnx.ModelProto:
    from onnxruntime.quantization.calibrate import (  # noqa: PLC0415
        CalibrationMethod,
        TensorData,
        TensorsData,
    )
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415
    from onnxruntime.quantization.quant_utils import QuantType  # noqa: PLC0415

    before = {node.name for node in proto.graph.node}
    nodes = [*decision.static, *decision.carriers]
    wanted = set(nodes)
    operators = sorted({node.op_type for node in proto.graph.node if node.name in wanted})
    data = {
        name: TensorData(lowest=np.float32(low), highest=np.float32(high))
        for name, (low, high) in {**decision.ranges, **grids(proto.graph)}.items()
    }
    quantizer = QDQQuantizer(
        proto,
        True,  # a scale for each output channel
        decision.narrow,
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(CalibrationMethod.MinMax, data),
        nodes,
        [],
        operators,
        {"UseQDQContribOps": _default_set(proto) < 13, "ForceQuantizeNoInputCheck": True},
    )
    made = _model(quantizer.quantize_model(), quantizer)
    round_once(made.graph, before)
    return made


def _dynamic(proto: onnx.ModelProto, decision: Quantization) -> onnx.ModelProto:
    from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer  # noqa: PLC0415
    from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType  # noqa: PLC0415

    for name in decision.dynamic:
        _gemm_to_matmul(proto, name)
    quantizer = ONNXQuantizer(
        proto,
        True,
        decision.narrow,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        list(decision.dynamic),
        [],
        ["MatMul"],
        {"MatMulConstBOnly": True},
    )
    return _model(quantizer.quantize_model(), quantizer)


def _gemm_to_matmul(proto: onnx.ModelProto, name: str) -> None:
    """Write a Gemm as MatMul and Add, which is what can be quantised at run time; others stay as they are."""
    nodes = proto.graph.node
    index = next((i for i, n in enumerate(nodes) if n.name == name and n.op_type == "Gemm"), None)
    if index is None:
        return
    gemm = nodes[index]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in gemm.attribute}
    assert not attributes.get("transA", 0)
    arrays = {t.name: t for t in proto.graph.initializer}
    weight = onnx.numpy_helper.to_array(arrays[gemm.input[1]])
    weight = np.ascontiguousarray(weight.T if attributes.get("transB", 0) else weight)
    weight = weight * np.asarray(attributes.get("alpha", 1.0), weight.dtype)
    inner, made, shift = f"{name}_product", f"{name}_weight", f"{name}_bias"
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, made))
    biased = len(gemm.input) > 2 and gemm.input[2] != ""
    product = onnx.helper.make_node("MatMul", [gemm.input[0], made], [inner], name)
    written = [product]
    if biased:
        bias = onnx.numpy_helper.to_array(arrays[gemm.input[2]])
        bias = bias * np.asarray(attributes.get("beta", 1.0), bias.dtype)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(bias, shift))
        written.append(onnx.helper.make_node("Add", [inner, shift], list(gemm.output), f"{name}_add"))
    else:
        product.output[0] = gemm.output[0]
    rest = [*nodes[:index], *written, *nodes[index + 1 :]]
    del proto.graph.node[:]
    proto.graph.node.extend(rest)


def _model(found: Any, quantizer: Any) -> onnx.ModelProto:
    model = found if isinstance(found, onnx.ModelProto) else quantizer.model.model
    assert isinstance(model, onnx.ModelProto)
    return model


def _default_set(proto: onnx.ModelProto) -> int:
    versions = {entry.domain: int(entry.version) for entry in proto.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def _restore(result: onnx.ModelProto, proto: onnx.ModelProto, sets: list[tuple[str, int]]) -> None:
    """Give the model back what the quantiser writes over: producer, declared values, operator sets, metadata.

    An entry of its own among the metadata says that types were inferred: it would not infer those of what is
    quantised in a second run, and fail.
    """
    keep_declared(result.graph, proto.graph)
    del result.metadata_props[:]
    result.metadata_props.extend(proto.metadata_props)
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string", "ir_version"):
        setattr(result, name, getattr(proto, name))
    used = {"" if n.domain == "ai.onnx" else n.domain for n in result.graph.node}
    del result.opset_import[:]
    for domain, version in sets:
        result.opset_import.append(onnx.helper.make_opsetid(domain, version))
    known = {"" if d == "ai.onnx" else d for d, _ in sets}
    if MICROSOFT in used - known:
        result.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice, which is for people who call it, off the terminal."""
    before, handlers = logging.root.manager.disable, list(logging.root.handlers)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
        logging.root.handlers[:] = handlers  # it gives the root logger one where there is none
