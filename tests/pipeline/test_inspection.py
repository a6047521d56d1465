"""What inspect finds out: groups, the network, and as much as can be told where channels cannot be traced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxcompress.core.channel_facts import ChannelFacts, GroupFacts, MemberFacts
from onnxcompress.core.errors import UnsupportedError
from onnxcompress.core.run import Run
from onnxcompress.pipeline import _channels, inspect

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def found(path: Path) -> ChannelFacts:
    facts = inspect(path).channels
    assert facts is not None
    assert facts.problem is None
    return facts


def group(facts: ChannelFacts, name: str) -> GroupFacts:
    return next(g for g in facts.groups if g.name == name)


def save(folder: Path, nodes: list[onnx.NodeProto], inputs: dict, outputs: dict, **weights: tuple) -> Path:
    rng = np.random.default_rng(0)
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in weights.items()}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def test_groups_of_a_small_network() -> None:
    facts = found(FIXTURES / "digits_cnn.onnx")
    sizes = {g.name: g.size for g in facts.groups if not g.frozen}
    assert sizes == {"conv1.weight": 16, "conv2.weight": 32, "fc1.weight": 64}
    conv2 = group(facts, "conv2.weight")
    assert MemberFacts("conv2.weight", 0, 32, False) in conv2.members
    assert MemberFacts("fc1.weight", 1, 512, True) in conv2.members  # 4 × 4 places of each channel
    assert conv2.parameters == 32 * 16 * 9 + 32 + 32 * 16 * 64
    assert conv2.macs == 8 * 8 * 32 * 16 * 9 + 32 * 16 * 64


def test_work_and_parameters_of_a_group_are_those_of_the_weights_beside_it() -> None:
    facts = found(FIXTURES / "digits_mlp.onnx")
    first, second = (g for g in facts.groups if g.size in (256, 128))
    assert (first.size, second.size) == (256, 128)
    assert first.macs == 64 * 256 + 256 * 128
    assert second.macs == 256 * 128 + 128 * 10
    assert first.parameters == 64 * 256 + 256 + 256 * 128
    assert facts.free_macs == 64 * 256 + 256 * 128 + 128 * 10


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.onnx")), ids=lambda p: p.stem)
def test_the_network_of_every_fixture_is_a_graph(path: Path) -> None:
    run = inspect(path)
    assert run.channels is not None
    facts = run.channels
    for place, node in enumerate(facts.nodes):
        assert all(r < place for r in node.reads)
        assert all(0 <= g < len(facts.groups) for g in node.groups)
        assert node.reads or node.operator == "input"
    model = onnx.load(path, load_external_data=False).graph
    inputs = {i.name for i in model.input} - {i.name for i in model.initializer}
    assert {n.name for n in facts.nodes if n.operator == "input"} == inputs
    assert {n.name for n in facts.nodes if n.operator == "output"} == {o.name for o in model.output}
    assert any(n.layer for n in facts.nodes)
    assert len({g.name for g in facts.groups}) == len(facts.groups)
    assert Run.from_json(run.to_json()) == run


def test_a_bodys_captured_values_are_edges() -> None:
    facts = found(FIXTURES / "if.onnx")
    branch = next(n for n in facts.nodes if n.operator == "If")
    assert branch.layer  # a body is a thing of its own
    reads = {facts.nodes[index].name for index in branch.reads}
    assert reads == {"plain", "relu1"}, "the condition, and what both bodies take from outside"
    bodies = ("choose.then_branch", "choose.else_branch")
    assert {r.where for r in facts.out_of_reach} == {f"{b}/fc{k}.weight" for b in bodies for k in (2, 3)}


def test_constants_and_sizes_are_not_drawn(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Add", ["w", "w"], ["ww"]),
        helper.make_node("MatMul", ["x", "ww"], ["h"]),
        helper.make_node("Reshape", ["h", "s"], ["y"]),
    ]
    path = save(tmp_path, nodes, {"x": (1, [2, 4])}, {"y": (1, [2, 4])}, w=(4, 4))
    assert [n.operator for n in found(path).nodes] == ["input", "MatMul", "Reshape", "output"]


def test_operators_without_a_rule_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxcompress.couplings._base import COUPLINGS

    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], name="first"),
        helper.make_node("Elu", ["h"], ["e"], name="bend"),
        helper.make_node("MatMul", ["e", "b"], ["y"], name="second"),
    ]
    path = save(tmp_path, nodes, {"x": (1, [2, 4])}, {"y": (1, [2, 3])}, a=(4, 8), b=(8, 3))
    assert found(path).without_rule == {}
    monkeypatch.delitem(COUPLINGS._entries, ("", "Elu"))
    facts = found(path)
    assert facts.without_rule == {"Elu": 1}
    hidden = next(g for g in facts.groups if g.size == 8)
    assert any("Elu 'bend'" in why for why in hidden.frozen)


def test_a_model_that_takes_no_inputs_we_find_is_told_of_without_groups(tmp_path: Path) -> None:
    """The index is always beyond the table: onnxruntime opens the model but never runs it."""
    nodes = [
        helper.make_node("Add", ["i", "far"], ["j"]),
        helper.make_node("Gather", ["table", "j"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    path = save(tmp_path, nodes, {"i": (7, [1])}, {"y": (1, [1, 3])}, table=(5, 8), w=(8, 3))
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([10**6]), "far"))
    onnx.save(model, path)
    run = inspect(path)
    assert run.channels is not None
    assert run.channels.problem is not None
    assert run.channels.problem.startswith("channels could not be traced: found no inputs")
    assert run.channels.groups == run.channels.nodes == ()
    assert {w.name for w in run.weights} == {"table", "w"}
    assert run.models[0].macs == 8 * 3


def test_a_failure_of_the_analysis_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise UnsupportedError("the model does not run", why="it is Monday")

    monkeypatch.setattr(_channels, "analyse", fails)
    run = inspect(FIXTURES / "digits_mlp.onnx")
    assert run.channels == ChannelFacts(problem="channels could not be traced: it is Monday")
    assert len(run.weights) == 3


def test_without_groups_no_torch_is_imported() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom onnxcompress.pipeline import inspect\n"
        f"run = inspect(Path({str(FIXTURES / 'digits_cnn.onnx')!r}), groups=False)\n"
        "assert run.channels is None and run.weights\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
