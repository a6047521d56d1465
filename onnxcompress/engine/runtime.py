"""onnxruntime: sessions, what its optimiser leaves, what loading costs. The only importer of onnxruntime."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from onnxcompress.core.encoding import Array
from onnxcompress.core.errors import DataError, UnsupportedError
from onnxcompress.core.places import no_temporary_files
from onnxcompress.engine.isolation import isolated
from onnxcompress.engine.measures import memory
from onnxcompress.engine.tensor_info import EXOTIC_TYPES, TensorInfo, numpy_type

onnxruntime.set_default_logger_severity(4)

Optimization = Literal["all", "extended", "basic", "none"]

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# Everything onnxruntime's binding raises for a model or for feeds; its own classes derive from Exception.
_ORT_ERRORS: tuple[type[BaseException], ...] = (
    *(e for e in vars(_state).values() if isinstance(e, type) and issubclass(e, Exception)),
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
)


@dataclass(frozen=True)
class Probe:
    """What loading a file costs, measured in a fresh process.

    Attributes:
        load_ms: median time to create a session.
        resident_bytes: resident memory after loading and one inference, above that of the bare process.
        peak_bytes: largest resident memory until then, above that of the bare process.
    """

    load_ms: float
    resident_bytes: int
    peak_bytes: int


def version() -> str:
    """Return onnxruntime's version."""
    return str(onnxruntime.__version__)


def providers() -> tuple[str, ...]:
    """Return the execution providers of this build, in onnxruntime's order of preference."""
    return tuple(onnxruntime.get_available_providers())


def one_line(error: BaseException) -> str:
    """Return onnxruntime's own words as one line, without status codes, source paths and stack frames."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", text)
    text = re.sub(r"(?<!\w)(?:[A-Za-z]:)?/[^\s'\"]*?/([\w.-]+\.(?:cc|h|cpp|hpp)):\d+ ", r"\1: ", text)
    text = re.sub(r"^Load model from .*? failed:\s*", "", text)
    text = re.sub(r"\s*Stacktrace:.*$", "", text)
    return text if len(text) <= 500 else text[:499] + "…"


class OrtSession:
    """An onnxruntime session with typed inputs and outputs and errors of ours."""

    def __init__(self, session: Any, where: str | None) -> None:
        self._session = session
        self._where = where
        self.inputs: tuple[TensorInfo, ...] = tuple(_info(i) for i in session.get_inputs())
        self.outputs: tuple[TensorInfo, ...] = tuple(_info(o) for o in session.get_outputs())
        optional = tuple(_info(i) for i in session.get_overridable_initializers())
        self._known = {i.name: i for i in (*self.inputs, *optional)}
        types = [i.dtype for i in (*self._known.values(), *self.outputs)]
        self._exotic = any(e in t for t in types for e in (*EXOTIC_TYPES, "int4", "int2", "float4"))

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that this session uses."""
        return tuple(self._session.get_providers())

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Return outputs by name: arrays, or lists and dicts for sequences and maps.

        Args:
            feeds: input name -> array (list of arrays for a sequence).
            outputs: names of the outputs wanted; None: all.

        Raises:
            DataError: an input is missing, unknown, or of another type or shape than declared.
            UnsupportedError: onnxruntime fails while computing; says so in its own words.
        """
        names = [o.name for o in self.outputs] if outputs is None else list(outputs)
        self._check_names(feeds)
        try:
            if self._exotic:
                values = {n: _ort_value(self._known[n], a) for n, a in feeds.items()}
                found = [_from_ort_value(v) for v in self._session.run_with_ort_values(names, values)]
            else:
                found = self._session.run(names, dict(feeds))
        except _ORT_ERRORS as error:
            raise self._error(error) from error
        return dict(zip(names, found, strict=True))

    def bind(self, feeds: Mapping[str, Any]) -> Callable[[], None]:
        """Return a call that runs the model once on these feeds, with inputs and outputs bound beforehand.

        Outputs whose shape is known stay where the first run put them. For timing.

        Raises:
            DataError: as ``run``.
            UnsupportedError: as ``run``.
        """
        self._check_names(feeds)
        if not all(isinstance(a, np.ndarray) and a.dtype != np.object_ for a in feeds.values()):
            self.run(feeds)  # strings and sequences cannot be bound
            names = [o.name for o in self.outputs]
            return lambda: self._discard(names, feeds)
        binding = self._session.io_binding()
        try:
            for name, array in feeds.items():
                binding.bind_ortvalue_input(name, _ort_value(self._known[name], array))
            for output in self.outputs:
                binding.bind_output(output.name)
            self._session.run_with_iobinding(binding)
            for output, value in zip(self.outputs, binding.get_outputs(), strict=True):
                if value.is_tensor() and output.numpy is not None and output.numpy != np.object_:
                    binding.bind_ortvalue_output(output.name, value)
        except _ORT_ERRORS as error:
            raise self._error(error) from error
        run = self._session.run_with_iobinding
        return lambda: run(binding)

    def end_profiling(self) -> Path:
        """Stop recording and return the file that holds the record, as JSON."""
        return Path(self._session.end_profiling())

    def _discard(self, names: list[str], feeds: Mapping[str, Any]) -> None:
        self._session.run(names, dict(feeds))

    def _check_names(self, feeds: Mapping[str, Any]) -> None:
        missing = [i.name for i in self.inputs if i.name not in feeds and not i.dtype.startswith("optional")]
        if missing:
            raise DataError(f"input {missing[0]!r} is missing", where=self._where)
        unknown = [name for name in feeds if name not in self._known]
        if unknown:
            known = ", ".join(repr(name) for name in self._known)
            raise DataError(
                f"the model has no input {unknown[0]!r}", where=self._where, fix=f"it has {known}"
            )

    def _error(self, error: BaseException) -> DataError | UnsupportedError:
        why = one_line(error)
        about_feeds = isinstance(error, (TypeError, ValueError)) or re.search(
            r"for input: |Input must be|input data type|invalid dimensions|Invalid rank|Invalid Feed",
            why,
            re.IGNORECASE,
        )
        if about_feeds and "while running" not in why:
            return DataError("onnxruntime does not accept these inputs", where=self._where, why=why)
        return UnsupportedError("onnxruntime cannot run the model", where=self._where, why=why)


def open_session(
    model: bytes | str | Path,
    *,
    threads: int = 1,
    optimization: Optimization = "all",
    optimized_to: Path | None = None,
    provider: str = "CPUExecutionProvider",
    settings: Mapping[str, str] | None = None,
    profile_to: Path | None = None,
) -> OrtSession:
    """Open a model in onnxruntime, with idle threads asleep and the log off.

    Args:
        model: a file, or a serialised model (at most 2 GiB, without external data).
        threads: threads inside an operator; 0 lets onnxruntime choose.
        optimization: level of graph optimisation.
        optimized_to: where to write the optimised graph (its tensors go to a file beside it).
        provider: execution provider.
        settings: further session configuration entries, as onnxruntime names them.
        profile_to: record every node that runs, in a file whose name begins so (``end_profiling``).

    Raises:
        UnsupportedError: onnxruntime refuses the model; says so in its own words.
        OutputError: it is the file ``optimized_to`` that cannot be written.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimization]
    entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    if optimized_to is not None:
        options.optimized_model_filepath = str(optimized_to)
        entries["session.optimized_model_external_initializers_file_name"] = optimized_to.name + ".data"
        entries["session.optimized_model_external_initializers_min_size_in_bytes"] = "1024"
    if profile_to is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile_to)
    for key, value in (entries | dict(settings or {})).items():
        options.add_session_config_entry(key, value)
    where = None if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=[provider]
        )
    except _ORT_ERRORS as error:
        if optimized_to is not None:
            open_session(model, optimization=optimization)  # where it opens it was the file
            raise no_temporary_files(one_line(error)) from error
        raise UnsupportedError(
            "onnxruntime cannot load the model", where=where, why=one_line(error)
        ) from error
    return OrtSession(session, where)


def optimized_ops(
    model: bytes | str | Path, *, optimization: Optimization = "extended"
) -> Counter[tuple[str, str]]:
    """Count (domain, operator) after onnxruntime's optimisation, nested graphs included.

    The extended level folds and fuses without changing layouts, so that two models that differ only in how
    weights are stored must give equal counters.

    Raises:
        UnsupportedError: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory(prefix="onnxcompress-") as folder:
        target = Path(folder) / "optimized.onnx"
        open_session(model, optimization=optimization, optimized_to=target)
        graph = onnx.load(target, load_external_data=False).graph
    return Counter(_operators(graph))


def _operators(graph: onnx.GraphProto) -> Iterable[tuple[str, str]]:
    for node in graph.node:
        yield ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        for attribute in node.attribute:
            for nested in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from _operators(nested)


def probe(path: str | Path, feeds: Mapping[str, Any], *, loads: int = 5, timeout_s: float = 600) -> Probe:
    """Measure load time and memory of a file in a fresh child process.

    Args:
        path: the model.
        feeds: inputs of the one inference that is run before memory is read.
        loads: how often the model is loaded for the median (fewer once 3 s are spent).
        timeout_s: give up after this many seconds.

    Raises:
        UnsupportedError: the model does not load or run, or takes the child down.
    """
    return isolated(_probe, str(path), dict(feeds), loads, timeout_s=timeout_s)


def _probe(path: str, feeds: Mapping[str, Any], loads: int) -> Probe:
    gc.collect()
    baseline = memory.resident_bytes()
    memory.reset_peak()
    began = time.perf_counter()
    session = open_session(path)
    times = [time.perf_counter() - began]
    session.run(feeds)
    resident = memory.resident_bytes()
    peak = max(memory.peak_bytes(), resident)
    while len(times) < loads and sum(times) < 3.0:
        del session
        began = time.perf_counter()
        session = open_session(path)
        times.append(time.perf_counter() - began)
    load_ms = 1e3 * statistics.median(times)
    return Probe(load_ms, max(resident - baseline, 0), max(peak - baseline, 0))


def load_check(model: bytes | str) -> None:
    """Open a model once; raises UnsupportedError where onnxruntime refuses it."""
    open_session(model)


def _info(value: Any) -> TensorInfo:
    dtype = str(value.type)
    shape: tuple[int | str | None, ...] = ()
    if dtype.startswith("tensor("):
        # A dimension onnxruntime cannot name comes as None, a negative or an empty name.
        shape = tuple((None if d == "" or (isinstance(d, int) and d < 0) else d) for d in value.shape or [])
    return TensorInfo(str(value.name), dtype, numpy_type(dtype), shape)


def _ort_value(info: TensorInfo, array: Any) -> Any:
    match = re.fullmatch(r"tensor\((\w+)\)", info.dtype)
    if match and match[1] in EXOTIC_TYPES:
        kind, element = EXOTIC_TYPES[match[1]]
        typed = np.ascontiguousarray(array, dtype=kind)
        bits = typed.view(np.uint16 if typed.itemsize == 2 else np.uint8).reshape(np.shape(array))
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, element)
    if match is None or isinstance(array, onnxruntime.OrtValue):
        return array
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(array))


def _from_ort_value(value: Any) -> Any:
    """Copy an output out of onnxruntime, whose binding has no NumPy form for bfloat16 and float8."""
    if not value.is_tensor():
        return value.numpy() if not value.is_tensor_sequence() else list(value.numpy())
    match = re.fullmatch(r"tensor\((\w+)\)", value.data_type())
    if match is None or match[1] not in EXOTIC_TYPES:
        return value.numpy()
    kind, shape = np.dtype(EXOTIC_TYPES[match[1]][0]), tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, dtype=kind).reshape(shape)


# Single nodes, for the torch graph: values of any type onnxruntime knows, bit by bit.


def run_values(session: OrtSession, feeds: Mapping[str, Any]) -> list[Any]:
    """Return all outputs in order; 2-, 4- and 8-bit types and bfloat16 travel as ``ml_dtypes`` arrays.

    Args:
        session: an open session.
        feeds: input name -> array, list (sequence) or dict (map).

    Raises:
        UnsupportedError: onnxruntime refuses the values or fails; says so in its own words.
    """
    raw, names = session._session, [o.name for o in session.outputs]
    bits = any(
        o.numpy is None or o.numpy.kind == "V" for o in session.outputs if o.dtype.startswith("tensor(")
    )
    try:
        if not bits and not any(isinstance(a, np.ndarray) and a.dtype.isbuiltin == 2 for a in feeds.values()):
            return list(raw.run(names, dict(feeds)))
        values = {name: _value_from_bits(array) for name, array in feeds.items()}
        return [_bits_from_value(v) for v in raw.run_with_ort_values(names, values)]
    except _ORT_ERRORS as error:
        raise UnsupportedError("onnxruntime cannot run the node", why=one_line(error)) from error


def _value_from_bits(array: Any) -> Any:
    if not isinstance(array, np.ndarray) or array.dtype.isbuiltin != 2:  # 2: a type NumPy did not define
        return onnxruntime.OrtValue.ortvalue_from_numpy(array) if isinstance(array, np.ndarray) else array
    element = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    bits = onnx.numpy_helper.from_array(array).raw_data
    value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(array.shape), element)
    ctypes.memmove(value.data_ptr(), bits, min(len(bits), value.tensor_size_in_bytes()))
    return value


def _bits_from_value(value: Any) -> Any:
    if not value.is_tensor() or value.data_type() == "tensor(string)":
        return value.numpy()
    tensor = onnx.TensorProto(data_type=value.element_type(), dims=value.shape())
    tensor.raw_data = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return onnx.numpy_helper.to_array(tensor)


__all__ = [
    "Array",
    "Optimization",
    "OrtSession",
    "Probe",
    "TensorInfo",
    "load_check",
    "numpy_type",
    "one_line",
    "open_session",
    "optimized_ops",
    "probe",
    "providers",
    "run_values",
    "version",
]
