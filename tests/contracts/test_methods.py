"""What every method must do, whatever it does."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.core.model import Model, Source
from onnxcompress.core.resources import Resources
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.tensor_info import TensorInfo
from onnxcompress.methods._base import METHODS, Needs

SHAPES = {"x": (1, 1, 6, 6)}
QUICK = {"steps": 2, "epochs": 1.0, "lr": 0.05, "batch_size": 32, "mix": False}
QUICK |= {"part": ("*=codebook(entries=4)",)}
"""Options that make a method quick, used where it has them."""


def small_model() -> Model:
    """Conv 1→16 on 6×6, Relu, Flatten, Gemm → 10, and a bias after it."""
    rng = np.random.default_rng(0)

    def tensor(name, *shape):
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) * 0.3, name)

    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv.w", "conv.b"], ["c"], "conv"),
            helper.make_node("Relu", ["c"], ["r"], "relu"),
            helper.make_node("Flatten", ["r"], ["f"], "flatten"),
            helper.make_node("MatMul", ["f", "fc.w"], ["m"], "fc"),
            helper.make_node("Add", ["m", "fc.b"], ["y"], "bias"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 1, 6, 6))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 10))],
        [tensor("conv.w", 16, 1, 3, 3), tensor("conv.b", 16), tensor("fc.w", 256, 10), tensor("fc.b", 10)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return Model(ir.serde.deserialize_model(proto), Source(None, "0", 0))


def small_task(labelled: bool):
    rng = np.random.default_rng(1)
    info = TensorInfo("x", "tensor(float)", np.dtype(np.float32), ("N", 1, 6, 6))
    out = TensorInfo("y", "tensor(float)", np.dtype(np.float32), ("N", 10))
    rows = [{"x": rng.normal(size=(1, 1, 6, 6)).astype(np.float32)} for _ in range(64)]
    if labelled:
        rows = [row | {"labels": np.array([i % 10])} for i, row in enumerate(rows)]
    return make_task(open_data(rows, [info], outputs=[out], labels="labels" if labelled else None), seed=3)


def quick(name: str):
    fields = {f.name for f in dataclasses.fields(METHODS[name])}
    return METHODS[name](**{k: v for k, v in QUICK.items() if k in fields})


def bytes_of(model: Model) -> bytes:
    return ir.serde.serialize_model(model.ir).SerializeToString(deterministic=True)


def arrays(encodings):
    return {name: encoding.decode() for name, encoding in encodings.items()}


@pytest.fixture(params=sorted(METHODS))
def name(request):
    return request.param


def least_task(name: str):
    return {Needs.NOTHING: None, Needs.INPUTS: small_task(False), Needs.LABELS: small_task(True)}[
        METHODS[name].needs
    ]


def test_method_introduces_itself(name):
    method = METHODS[name]
    assert method.name == name
    assert method.source
    assert method.summary
    assert isinstance(method.needs, Needs)
    for field in dataclasses.fields(method):
        assert field.metadata.get("help"), f"option {field.name} has no text"
        assert field.default is not dataclasses.MISSING, f"option {field.name} has no default"


def test_options_cannot_be_changed(name):
    method = METHODS[name]()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, dataclasses.fields(method)[0].name, None)


@pytest.mark.parametrize("labelled", [None, False, True])
def test_model_is_unchanged_and_the_same_seed_gives_the_same_plan(name, labelled):
    task = least_task(name) if labelled is None else small_task(labelled)
    if METHODS[name].needs is Needs.LABELS and labelled is False:
        pytest.skip("needs labels: the pipeline refuses before the method is asked")
    model = small_model()
    before = bytes_of(model)
    first, second = (quick(name).plan(model, task, Resources(input_shapes=SHAPES)) for _ in range(2))
    assert bytes_of(model) == before
    assert first.refusals == second.refusals
    assert first.warnings == second.warnings
    for ours, theirs in ((first.weights, second.weights), (first.values, second.values)):
        assert set(ours) == set(theirs)
        for key, array in arrays(ours).items():
            np.testing.assert_array_equal(array, theirs[key].decode())
    assert set(first.keep) == set(second.keep)
    for group, mask in first.keep.items():
        np.testing.assert_array_equal(mask, second.keep[group])


def test_plan_fits_the_model(name):
    model = small_model()
    plan = quick(name).plan(model, small_task(True), Resources(input_shapes=SHAPES))
    assert not set(plan.weights) & set(plan.values)
    for key, encoding in {**plan.weights, **plan.values}.items():
        assert encoding.shape == model.weights[key].shape
        assert encoding.dtype == model.weights[key].dtype
        assert np.isfinite(encoding.decode()).all()
    refused = {refusal.where for refusal in plan.refusals}
    matrices = {key for key, weight in model.weights.items() if len(weight.shape) >= 2}
    channels = analyse(model, SHAPES)
    cut = {m.tensor for group in plan.keep for m in channels.group(group).members}
    touched = refused | set(plan.weights) | set(plan.values) | cut
    # What may be simplified is decided; that nothing else happens to a matrix is proven when it is.
    assert plan.simplification or matrices <= touched, "a matrix is neither compressed nor refused"
    for group, mask in plan.keep.items():
        assert channels.group(group).free or channels.group(group).sliceable
        assert mask.shape == (channels.group(group).size,)
        assert mask.any(), "a layer is emptied"
    if plan.weights or plan.values:
        assert bytes_of(model.with_encodings({**plan.values, **plan.weights}, name)) != bytes_of(model)
