"""Every operator against onnxruntime at every version, and its gradient against differences."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from single_node import by_onnxruntime, by_reference, computed, difference, model_of, node_of, tensor
from torch.autograd.gradcheck import GradcheckError

from onnxcompress.engine.int8.kernels import sums_overflow
from onnxcompress.ops._base import OPS, Example, Node, NotCoveredError

NEWEST = 26
# two libraries draw different numbers from one seed: tested by their statistics instead
RANDOM = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
}  # fmt: skip
# where the reference of the specification ignores attributes or takes defaults of later versions
WEAK_REFERENCE = {"AveragePool", "Gemm", "GRU", "LSTM", "RNN", "Selu", "Dropout", "BatchNormalization"}
# onnxruntime's sums of 8-bit products overflow on some processors: the reference is asked first there
EIGHT_BITS = {"MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"}
# no library runs these any more
DEAD = {"DynamicSlice"}
# operators that hold graphs, sequences or optionals have tests of their own
ELSEWHERE = {"control", "optional", "sequence", "zipmap"}
# gradients stop in some cases: a cast to integers, an empty slice, an integer raised to a fraction
MAY_STOP = {"Cast", "CastLike", "Slice", "Pow"}
# inputs that are settings, not values: gradients stop there by design
SETTINGS: dict[str, set[int]] = {
    "BatchNormalization": {3, 4},
    "Resize": {1, 2, 3},
    "Upsample": {1},
    "Clip": {1, 2},
    "Dropout": {1},
    "Tile": {1, 2},
    "MaxRoiPool": {1},
    "RoiAlign": {1},
    "Pad": {2},
}


def history() -> dict[tuple[str, str], list[int]]:
    """Return the versions of every operator's definition that are not above the newest opset."""
    found: dict[tuple[str, str], list[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.since_version <= NEWEST or schema.domain:
            found.setdefault((schema.domain, schema.name), []).append(schema.since_version)
    return {key: sorted(versions) for key, versions in found.items()}


def definitions() -> Iterator[tuple[str, str, int]]:
    known = history()
    for (domain, type_), op in sorted(OPS.items()):
        if type_ in RANDOM | DEAD or op.forward.__module__.rpartition(".")[2] in ELSEWHERE:
            continue
        for version in known.get((domain, type_), [1]):
            if op.versions[0] <= version <= op.versions[1]:
                yield domain, type_, version


def cases(domain: str, type_: str, version: int) -> list[Example]:
    return list(OPS[domain, type_].examples(version))


def expected(domain: str, type_: str, version: int, case: Example) -> list[Any] | None:
    """Return what onnxruntime computes, or the reference of the specification where it has no kernel."""
    model = model_of(domain, type_, version, case)
    oracles = [by_onnxruntime] if type_ in WEAK_REFERENCE else [by_onnxruntime, by_reference]
    if type_ in EIGHT_BITS and sums_overflow():
        oracles.reverse()
    for oracle in oracles:
        try:
            return oracle(model, case)
        except Exception:
            continue
    return None


@pytest.mark.parametrize(("domain", "type_", "version"), list(definitions()))
def test_forward_equals_onnxruntime(domain: str, type_: str, version: int) -> None:
    examples, wrong = cases(domain, type_, version), []
    wanted = [expected(domain, type_, version, case) for case in examples]
    if all(want is None for want in wanted):
        pytest.skip("neither onnxruntime nor the reference runs this version")
    for number, (case, want) in enumerate(zip(examples, wanted, strict=True)):
        if want is None:
            wrong.append(f"case {number}: no oracle runs it")
            continue
        got = computed(OPS[domain, type_], node_of(domain, type_, version, case), case)
        found = [difference(g, w) for g, w in zip(got, want, strict=False)]
        wrong += [f"case {number} output {i}: {d}" for i, d in enumerate(found) if d]
    assert not wrong, "\n".join(wrong)


def test_every_operator_is_compared_at_some_version() -> None:
    compared = {
        (domain, type_)
        for domain, type_, version in definitions()
        for case in cases(domain, type_, version)[:1]
        if expected(domain, type_, version, case) is not None
    }
    assert {(domain, type_) for domain, type_, _ in definitions()} - compared == set()


def differentiable_cases() -> Iterator[Any]:
    newest = {(domain, type_): version for domain, type_, version in definitions()}
    for (domain, type_), version in newest.items():
        if OPS[domain, type_].differentiable:
            for number, case in enumerate(cases(domain, type_, version)):
                yield pytest.param(domain, type_, version, case, id=f"{type_}-{version}-{number}")


def moving_inputs(type_: str, case: Example) -> list[int]:
    """Return the inputs whose gradient is compared: floats that are not settings of the operator."""
    fixed = set(SETTINGS.get(type_, set()))
    if type_ == "Pow" and np.any(case.inputs[0] < 0):
        fixed.add(1)  # only whole exponents are defined
    return [
        i
        for i, x in enumerate(case.inputs)
        if x is not None and x.dtype.kind == "f" and x.size and i not in fixed
    ]


def gradient_holds(forward: Callable[..., Any], node: Node, case: Example) -> bool | None:
    """Compare the gradient with central differences in float64; None where no input has one."""
    moving = moving_inputs(node.op_type, case)
    fixed = [tensor(x) for x in case.inputs]
    fixed = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in fixed]

    def function(*values: torch.Tensor) -> Any:
        inputs = list(fixed)
        for i, value in zip(moving, values, strict=True):
            inputs[i] = value
        while inputs and inputs[-1] is None:
            inputs.pop()
        result = forward(node, *inputs)
        result = result if isinstance(result, tuple) else (result,)
        return tuple(y for y in result if y is not None and y.is_floating_point())

    arguments = [fixed[i].clone().requires_grad_() for i in moving]
    outputs = function(*arguments)
    if not any(y.requires_grad and y.numel() for y in outputs):
        return None
    torch.manual_seed(0)
    return bool(torch.autograd.gradcheck(function, arguments, fast_mode=True, raise_exception=True))


@pytest.mark.parametrize(("domain", "type_", "version", "case"), list(differentiable_cases()))
def test_gradient_equals_differences(domain: str, type_: str, version: int, case: Example) -> None:
    node = node_of(domain, type_, version, case, wide=True)
    if type_ == "TopK" and len(np.unique(case.inputs[0])) < case.inputs[0].size:
        pytest.skip("at a tie the order has no derivative")
    holds = gradient_holds(OPS[domain, type_].forward, node, case)
    assert holds or (holds is None and (not moving_inputs(type_, case) or type_ in MAY_STOP))


def newest() -> list[tuple[str, str, int]]:
    last = {(domain, type_): version for domain, type_, version in definitions()}
    return [(domain, type_, version) for (domain, type_), version in last.items()]


@pytest.mark.parametrize(("domain", "type_", "version"), newest())
def test_float64_execution_never_falls_back_to_float32(domain: str, type_: str, version: int) -> None:
    op = OPS[domain, type_]
    for case in cases(domain, type_, version):
        narrow = computed(op, node_of(domain, type_, version, case), case)
        inputs = [x if x is None or x.dtype != np.float32 else x.astype(np.float64) for x in case.inputs]
        node = node_of(domain, type_, version, case, wide=True)
        wide = computed(op, node, dataclasses.replace(case, inputs=tuple(inputs)))
        for a, b in zip(narrow, wide, strict=True):
            if not isinstance(b, torch.Tensor) or not b.is_floating_point():
                continue
            assert b.dtype == torch.float64
            assert np.allclose(np.asarray(a, np.float64), b.numpy(), rtol=1e-2, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize("type_", ["Conv", "Gemm", "Softmax", "LSTM", "Resize"])
def test_a_wrong_forward_is_found(type_: str) -> None:
    version = max(v for d, t, v in definitions() if (d, t) == ("", type_))
    case = cases("", type_, version)[0]
    want = expected("", type_, version, case)
    assert want is not None
    got = computed(OPS["", type_], node_of("", type_, version, case), case)
    assert difference(got[0], want[0]) is None
    bent = got[0].clone()
    bent.view(-1)[zlib.crc32(type_.encode()) % bent.numel()] += 1e-3
    assert difference(bent, want[0]) is not None


@pytest.mark.parametrize("type_", ["Conv", "Sigmoid", "LayerNormalization"])
def test_a_wrong_gradient_is_found(type_: str) -> None:
    version = max(v for d, t, v in definitions() if (d, t) == ("", type_))
    case = cases("", type_, version)[0]
    node = node_of("", type_, version, case, wide=True)
    right = OPS["", type_].forward

    def bent(node: Node, x: Any, *rest: Any) -> Any:
        # the same value, with a gradient that is 1 % too large
        return right(node, x + 0.01 * (x - x.detach()), *rest)

    assert gradient_holds(right, node, case)
    with pytest.raises(GradcheckError):
        gradient_holds(bent, node, case)


def test_types_torch_does_not_have_are_not_covered() -> None:
    with pytest.raises(NotCoveredError):
        OPS["", "Add"].forward(Node("Add", 14), np.array(["a"]), np.array(["b"]))


@pytest.mark.parametrize("type_", sorted(RANDOM - {"Multinomial", "Bernoulli"}))
def test_random_numbers_have_the_moments_asked_for(type_: str) -> None:
    torch.manual_seed(0)
    normal = "Normal" in type_
    asked = {"mean": 2.0, "scale": 3.0} if normal else {"low": -1.0, "high": 3.0}
    inputs = [torch.zeros(200, 100)] if type_.endswith("Like") else []
    shape = {} if inputs else {"shape": [200, 100]}
    drawn = OPS["", type_].forward(Node(type_, 1, {**asked, **shape}), *inputs)
    mean, deviation = (2.0, 3.0) if normal else (1.0, 4 / np.sqrt(12))
    assert drawn.shape == (200, 100)
    assert abs(float(drawn.mean()) - mean) < 0.08
    assert abs(float(drawn.std()) - deviation) < 0.08


def test_drawn_classes_and_coins_follow_their_probabilities() -> None:
    torch.manual_seed(0)
    odds = torch.tensor([0.2, 0.5, 0.3])
    drawn = OPS["", "Multinomial"].forward(Node("Multinomial", 7, {"sample_size": 20000}), odds.log()[None])
    assert torch.allclose(torch.bincount(drawn[0]) / 20000, odds, atol=0.02)
    coins = OPS["", "Bernoulli"].forward(Node("Bernoulli", 15), odds.repeat(20000, 1))
    assert torch.allclose(coins.mean(0), odds, atol=0.02)
