"""The third way to execute a node: alone in onnxruntime, without gradient.

Whatever onnxruntime runs can be executed so: strings, 2-, 4- and 8-bit types, sequences, maps, the
operators of ``com.microsoft`` and ``ai.onnx.ml``. Fixed inputs become initializers, because some
kernels want them so; the others become inputs whose types are read off the values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TypeProto, helper

from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.model import LEAST_IR_VERSION
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.values import Value, element_type, to_array, to_value


class ForeignNode:
    """One node of a graph as a model of its own, one session for each combination of input types.

    Args:
        node: the node; it must hold no nested graph that captures values.
        opsets: operator sets of its model.
        ir_version: of its model.
        functions: local functions that could not be inlined.
    """

    def __init__(
        self, node: ir.Node, opsets: Mapping[str, int], ir_version: int, functions: Sequence[ir.Function] = ()
    ) -> None:
        self._node = node
        self._opsets = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        self._ir_version = ir_version
        self._functions = [ir.to_proto(function) for function in functions]
        self._outputs = _output_names(node, opsets)
        self._attempt = 0
        self._sessions: dict[tuple[Any, ...], runtime.OrtSession] = {}

    def __call__(
        self, inputs: Sequence[Value], fixed: Sequence[bool], dtype: torch.dtype, device: torch.device
    ) -> list[Value]:
        """Run the node.

        Args:
            inputs: one value an input slot, None where left out.
            fixed: for each, whether it is the same in every call.
            dtype: type the graph computes floats in.
            device: where floating-point results go.

        Raises:
            UnsupportedError: onnxruntime cannot run it; says why in its words.
        """
        arrays = [to_array(value) for value in inputs]
        refused: UnsupportedError | None = None
        for attempt in range(self._attempt, 3):
            # 0: as computed; 1: in the types the model declares; 2: for kernels that want constant inputs.
            given = self._as_declared(arrays) if attempt else arrays
            try:
                outputs = self._run(given, fixed, stored=attempt == 2)
            except UnsupportedError as error:
                refused = refused or error
                continue
            self._attempt = attempt
            return [to_value(output, dtype, device) for output in outputs]
        assert refused is not None
        raise refused

    def _as_declared(self, arrays: list[Any]) -> list[Any]:
        """Return the floats in the types the model declares, float32 where it does not."""
        result = list(arrays)
        for index, (array, value) in enumerate(zip(arrays, self._node.inputs, strict=True)):
            if isinstance(array, np.ndarray) and array.dtype.kind == "f":
                declared = element_type(value)
                wanted = declared.numpy() if declared is not None else np.dtype(np.float32)
                if wanted.kind in "fV":
                    result[index] = array.astype(wanted, copy=False)
        return result

    def _run(self, arrays: list[Any], fixed: Sequence[bool], *, stored: bool) -> list[Any]:
        """Run once; ``stored``: all inputs but the first become initializers, of a session for this call."""
        names = [f"i{index}" for index in range(len(arrays))]
        constant = [
            isinstance(a, np.ndarray) and (f or (stored and index > 0))
            for index, (f, a) in enumerate(zip(fixed, arrays, strict=True))
        ]
        types = [
            None if a is None else _type_of(a, v) for a, v in zip(arrays, self._node.inputs, strict=True)
        ]
        key = tuple(None if t is None else t.SerializeToString() for t in types)
        session = None if stored else self._sessions.get(key)
        if session is None:
            held = {n: a for n, a, c in zip(names, arrays, constant, strict=True) if c}
            session = self._open(names, types, held)
            if not stored:
                self._sessions[key] = session
        feeds = {n: a for n, a, c in zip(names, arrays, constant, strict=True) if a is not None and not c}
        results = iter(runtime.run_values(session, feeds))
        return [next(results) if name else None for name in self._outputs]

    def _open(
        self, names: list[str], types: list[TypeProto | None], stored: Mapping[str, Any]
    ) -> runtime.OrtSession:
        proto = ir.to_proto(self._node)
        del proto.input[:], proto.output[:]
        proto.input.extend(n if t is not None else "" for n, t in zip(names, types, strict=True))
        proto.output.extend(self._outputs)
        graph = helper.make_graph(
            [proto],
            "node",
            [
                helper.make_value_info(n, t)
                for n, t in zip(names, types, strict=True)
                if t is not None and n not in stored
            ],
            [onnx.ValueInfoProto(name=name) for name in self._outputs if name],
            [_tensor(name, array) for name, array in stored.items()],
        )
        model = helper.make_model(
            graph,
            opset_imports=self._opsets,
            functions=self._functions,
            ir_version=max(self._ir_version, LEAST_IR_VERSION),
        )
        return runtime.open_session(model.SerializeToString(), optimization="none")


def _output_names(node: ir.Node, opsets: Mapping[str, int]) -> list[str]:
    """Return a name for each output; none where it is left out and may be.

    onnxruntime crashes on a left-out output that the operator's definition does not let be left out (Split).
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    try:
        formal = onnx.defs.get_schema(node.op_type, opsets.get(domain, 1), domain).outputs
    except onnx.defs.SchemaError:
        formal = ()
    names = []
    for index, value in enumerate(node.outputs):
        known = formal[min(index, len(formal) - 1)] if formal else None
        optional = known is None or known.option == onnx.defs.OpSchema.FormalParameterOption.Optional
        names.append("" if not value.name and optional else f"o{index}")
    return names


def _tensor(name: str, array: Any) -> onnx.TensorProto:
    if array.dtype.kind in "OSU":
        texts = [str(s).encode("utf-8", "surrogateescape") for s in array.flat]
        return onnx.TensorProto(
            name=name, data_type=onnx.TensorProto.STRING, dims=array.shape, string_data=texts
        )
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def _type_of(value: Any, declared: ir.Value | None) -> TypeProto:
    """Return the ONNX type of a value; of an empty sequence, as the model declares it."""
    if isinstance(value, np.ndarray):
        strings = value.dtype.kind in "OSU"
        element = onnx.TensorProto.STRING if strings else helper.np_dtype_to_tensor_dtype(value.dtype)
        return helper.make_tensor_type_proto(element, None)
    if isinstance(value, list):
        if value:
            return helper.make_sequence_type_proto(_type_of(value[0], None))
        element_ir = element_type(declared) or ir.DataType.FLOAT
        return helper.make_sequence_type_proto(helper.make_tensor_type_proto(int(element_ir), None))
    if isinstance(value, dict):
        key, item = next(iter(value.items()), ("", 0.0))
        kinds = {str: onnx.TensorProto.STRING, int: onnx.TensorProto.INT64, float: onnx.TensorProto.FLOAT}
        item_type = helper.make_tensor_type_proto(kinds[type(item)], ())
        return helper.make_map_type_proto(kinds[type(key)], item_type)
    raise UnsupportedError(f"a value of type {type(value).__name__} cannot be given to onnxruntime")
