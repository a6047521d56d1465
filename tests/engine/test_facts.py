"""Facts of files, against gzip, sha256sum, and files written for the purpose."""

import gzip
import hashlib
import platform
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.encoding import Array, Encoding, Site
from onnxcompress.core.model import Model, Source
from onnxcompress.engine.measures import facts
from onnxcompress.engine.measures.tensorfile import TensorFile

RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


class Codes(Encoding):
    """A codebook of float32 entries with one byte a weight."""

    kind = "codes"

    def __init__(self, codes: Array, entries: Array) -> None:
        self.codes, self.entries = codes, entries
        self.shape, self.dtype = codes.shape, np.dtype(np.float32)

    def decode(self) -> Array:
        return self.entries[self.codes]

    def stored_bits(self) -> int:
        return 8 * (self.codes.nbytes + self.entries.nbytes)

    def information_bits(self) -> float:
        return self.stored_bits()

    def take(self, axis: int, keep: Array) -> Encoding:
        return Codes(self.codes.take(keep, axis), self.entries)

    def emit(self, site: Site) -> ir.Value:
        raise NotImplementedError

    def codebook(self) -> Array:
        return self.entries


def proto(weight: Array | None = None) -> onnx.ModelProto:
    """Reshape by a constant, a branch with a weight of its own, and a function."""
    weight = RNG.standard_normal((6, 4)).astype(np.float32) if weight is None else weight
    inner = helper.make_graph(
        [helper.make_node("Add", ["h", "inner"], ["t"], name="add")],
        "then",
        [],
        [helper.make_tensor_value_info("t", FLOAT, None)],
        [numpy_helper.from_array(np.ones(4, np.float32), "inner")],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["e"], name="same")],
        "else",
        [],
        [helper.make_tensor_value_info("e", FLOAT, None)],
    )
    function = helper.make_function(
        "local",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], name="reshape"),
        helper.make_node("MatMul", ["flat", "w"], ["h"], name="dense"),
        helper.make_node("If", ["flag"], ["i"], name="if", then_branch=inner, else_branch=other),
        helper.make_node("Twice", ["i"], ["y"], name="twice", domain="local"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", FLOAT, ["N", 2, 3]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([-1, 6]), "shape")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=[function])


def model(source: onnx.ModelProto) -> Model:
    return Model(ir.serde.deserialize_model(source), Source(None, "", 0))


def test_facts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(proto(), path)
    found = facts.model_facts(path, model(proto()))
    data = path.read_bytes()
    assert found.name == "m.onnx"
    assert found.size_bytes == len(data)
    assert found.sha256 == hashlib.sha256(data).hexdigest()
    # Same deflate stream; the header may differ by the file's name and time.
    assert abs(found.gzip_bytes - len(gzip.compress(data, 6))) <= 16
    # Four nodes, one in each branch, one in the function.
    assert found.nodes == 4 + 2 + 1
    assert found.parameters == 6 * 4 + 4
    assert found.bits_per_weight == 32
    assert (found.opset, found.ir_version, found.macs, found.input_shapes) == (17, 9, None, {})


def test_a_model_in_memory_has_the_same_facts(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(proto_bytes := proto().SerializeToString())
    one = facts.model_facts(path, model(proto()), name="m")
    assert facts.model_facts(proto_bytes, model(proto()), name="m") == one


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_counts(tmp_path: Path, one_file: bool) -> None:
    weight = RNG.standard_normal((6, 4000)).astype(np.float32)
    path = tmp_path / "m.onnx"
    onnx.save(
        proto(weight),
        path,
        save_as_external_data=True,
        all_tensors_to_one_file=one_file,
        location="m.data" if one_file else None,
        size_threshold=0,
        convert_attribute=True,
    )
    (tmp_path / "unrelated.bin").write_bytes(b"x" * 1000)
    files = [p for p in tmp_path.iterdir() if p.name != "unrelated.bin"]
    found = facts.model_facts(path, model(proto(weight)))
    assert len(files) > 1
    assert found.size_bytes == sum(p.stat().st_size for p in files)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.bits_per_weight == 32
    # Random floats hardly compress: what is beside the file is in the packed size.
    assert found.gzip_bytes > 0.85 * weight.nbytes


def test_bits_per_weight_are_those_of_the_tensors_in_the_file() -> None:
    entries, codes = np.array([-1.0, 1.0], np.float32), RNG.integers(0, 2, (6, 4)).astype(np.uint8)
    written = proto()
    del written.graph.initializer[0]
    written.graph.initializer.extend(
        [numpy_helper.from_array(codes, "w.codes"), numpy_helper.from_array(entries, "w.entries")]
    )
    compressed = model(proto()).with_encodings({"w": Codes(codes, entries)}, "codes")
    found = facts.model_facts(written.SerializeToString(), compressed)
    assert found.parameters == 28
    # One byte a code, two floats, and the four floats of the branch; the shape of Reshape is no weight.
    assert found.bits_per_weight == 8 * (24 + 8 + 16) / 28


def test_typed_fields_count_what_they_take() -> None:
    written = proto()
    typed = onnx.TensorProto(name="w", data_type=FLOAT, dims=[6, 4], float_data=[1.5] * 24)
    written.graph.initializer[0].CopyFrom(typed)
    stored = {t.name: t.size_bytes for t in TensorFile(written.SerializeToString()).tensors}
    assert stored["w"] == 24 * 4
    assert stored["if.then_branch/inner"] == 16


def test_weight_facts() -> None:
    before = model(proto(np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)))
    entries = np.array([-0.5, 0.5], np.float32)
    encoding = Codes((before.array("w") > 0).astype(np.uint8), entries)
    (found,) = facts.weight_facts(before, before, {"w": encoding})
    old, new = before.array("w").astype(np.float64), encoding.decode().astype(np.float64)
    assert (found.name, found.shape, found.dtype, found.encoding) == ("w", (6, 4), "float32", "codes")
    assert found.consumers == ("dense (MatMul)",)
    assert (found.entries, found.codebook) == (2, (-0.5, 0.5))
    assert (found.bits_before, found.bits_after) == (24 * 32, 24 * 8 + 64)
    np.testing.assert_allclose(
        found.relative_error, np.linalg.norm(old - new) / np.linalg.norm(old), rtol=1e-12
    )
    assert found.histogram is not None
    assert len(found.histogram.counts) == facts.BINS
    assert sum(found.histogram.counts) == 24


def test_a_weight_encoded_before_keeps_its_bits_from_before() -> None:
    codes = RNG.integers(0, 2, (6, 4)).astype(np.uint8)
    first, second = (Codes(codes, np.array(e, np.float32)) for e in ([-1, 1], [-2, 2]))
    before = model(proto()).with_encodings({"w": first}, "first")
    (found,) = facts.weight_facts(before, before, {"w": second})
    assert found.bits_before == first.stored_bits()
    assert found.relative_error == 1.0


def test_outliers_are_counted_in_the_end_bins() -> None:
    values = np.concatenate([RNG.standard_normal(10_000), [1e6, -1e6]]).astype(np.float32)
    found = facts.histogram(values)
    assert found is not None
    assert sum(found.counts) == values.size
    assert -10 < found.edges[0] < found.edges[-1] < 10
    inside = np.histogram(values, np.array(found.edges))[0]
    np.testing.assert_array_equal(found.counts[1:-1], inside[1:-1])


@pytest.mark.parametrize(
    "values",
    [np.zeros(5), np.full(3, -7.0), np.array([1e30]), np.array([1.0, np.nan]), np.array([0.0, 1e-30])],
)
def test_histogram_of_little(values: Array) -> None:
    found = facts.histogram(values.astype(np.float32))
    assert found is not None
    assert sum(found.counts) == np.isfinite(values).sum()
    assert all(a < b for a, b in zip(found.edges, found.edges[1:], strict=False))


def test_histogram_of_nothing() -> None:
    assert facts.histogram(np.array([], np.float32)) is None
    assert facts.histogram(np.array([np.nan], np.float32)) is None


def test_relative_error_of_zero_weights() -> None:
    zero = np.zeros(4, np.float32)
    assert facts.relative_error(zero, zero) == 0.0
    assert facts.relative_error(zero, zero + 2) == 4.0


def test_environment_names_versions_but_no_machine_and_no_person() -> None:
    found = facts.environment()
    assert found.packages["onnx"] == onnx.__version__
    assert found.python == platform.python_version()
    assert found.cores >= 1
    assert found.cpu
    assert found.platform == f"{platform.system()} {platform.machine()}"
