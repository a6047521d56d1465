"""Sensitivity finds the layer that was made fragile, says how sure that is, and its list is read again."""

import tomllib
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from fragile_layer import fragile
from onnx import TensorProto, helper, numpy_helper

import onnxcompress
from onnxcompress.core.errors import NothingChangedError, UsageError
from onnxcompress.engine.damage import Damage
from onnxcompress.pipeline import sensitivity as stage
from onnxcompress.recipe import build, excluded_in

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def planted(layers: int = 6, frail: int = 3):
    """Return matrix products one after the other; four entries serve all but one of them exactly.

    The firm ones are rotations made of ±1/8 alone (Hadamard), the frail one is made of Gaussian numbers.
    """
    rng = np.random.default_rng(0)
    hadamard = np.ones((1, 1))
    while len(hadamard) < 64:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    nodes, arrays, last = [], {}, "x"
    for index in range(layers):
        name = f"layer[{index}].w"  # brackets mean something to a glob
        weight = hadamard[rng.permutation(64)] / 8
        if index == frail:
            weight = rng.standard_normal((64, 64)) / 8
        arrays[name] = weight.astype(np.float32)
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{index}"], f"node{index}"))
        last = f"h{index}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    graph = helper.make_graph(
        nodes,
        "planted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rows(count=80):
    return {"x": np.random.default_rng(1).standard_normal((count, 64)).astype(np.float32)}


def of(model, method, *, data=None, **options):
    known = {"examples": options.pop("examples", 50), "above": options.pop("above", None)}
    recipe = build([method], options, data={"path": data} if data is not None else {})
    return stage.sensitivity(model, recipe, **known)


@pytest.mark.parametrize("frail", [0, 3, 5])
@pytest.mark.parametrize("data", [None, "given"])
def test_the_planted_layer_is_found(frail, data):
    ranked = of(planted(frail=frail), "lc-quant", data=rows() if data else None, bits=2)
    found = ranked.run.sensitivity
    assert [layer.name for layer in found.layers if layer.fragile] == [f"layer[{frail}].w"]
    assert ranked.exclude == (f"layer[{frail}].w",)
    assert found.layers[0].low > found.layers[1].high
    assert found.random_inputs == (data is None)
    assert any("random inputs" in w for w in ranked.run.warnings) == (data is None)


def test_the_planted_layer_is_found_for_8_bits():
    ranked = of(fragile(), "int8", data={"x": rows()["x"][:, :16]}, way="static")
    assert ranked.exclude == ("frail.w",)


def test_damage_is_that_of_compressing_the_layer_alone():
    ranked = of(FIXTURES / "digits_cnn.onnx", "lc-quant", data=str(FIXTURES / "digits.npz"), bits=1)
    assert ranked.run.sensitivity.examples == 50
    assert ranked.run.sensitivity.inputs == "50 training examples"
    for layer in ranked.run.sensitivity.layers:
        assert layer.low <= layer.relative_l2 <= layer.high
    # The oracle: the same layer alone, compressed by the ordinary command, compared on the same inputs.
    name = ranked.run.sensitivity.layers[0].name
    alone = onnxcompress.compress(
        FIXTURES / "digits_cnn.onnx", method="lc-quant", bits=1, include=(name,), fold=False
    ).model
    digits = np.load(FIXTURES / "digits.npz")
    keys = [k for k in digits if digits[k].dtype.kind in "uf" and digits[k].ndim > 1]
    x = digits[keys[0]].astype(np.float32)[:200].reshape(-1, 1, 8, 8)
    x = x / (16 if x.max() > 1 else 1)

    def run(proto):
        raw = proto if isinstance(proto, str) else proto.SerializeToString()
        session = onnxruntime.InferenceSession(raw, providers=["CPUExecutionProvider"])
        size = session.get_inputs()[0].shape[0]
        step = size if isinstance(size, int) else len(x)
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: x[i : i + step]})[0] for i in range(0, len(x), step)])

    before, after = run(str(FIXTURES / "digits_cnn.onnx")), run(alone)
    expected = np.linalg.norm(before - after) / np.linalg.norm(before)
    top = ranked.run.sensitivity.layers[0]
    assert 0.8 * top.low <= expected <= 1.2 * top.high


def test_groups_of_channels_have_damage_too():
    ranked = of(FIXTURES / "digits_cnn.onnx", "magnitude", data=str(FIXTURES / "digits.npz"), keep=0.5)
    found = ranked.run.sensitivity
    assert len(found.layers) >= 2
    assert all("channels kept" in layer.changed for layer in found.layers)


def test_the_list_is_read_by_the_flag_and_by_recipes(tmp_path):
    ranked = of(planted(), "lc-quant", data=rows(), bits=2)
    (frail,) = ranked.exclude
    stage.save(tmp_path / "fragile.toml", ranked)
    content = tomllib.loads((tmp_path / "fragile.toml").read_text())
    assert content["exclude"] == [frail]
    assert [layer["name"] for layer in content["layer"]] == [
        layer.name for layer in ranked.run.sensitivity.layers
    ]
    assert excluded_in(tmp_path / "fragile.toml") == (frail,)

    (method,) = build(["int8"], {"exclude_file": tmp_path / "fragile.toml", "exclude": ("node0",)}).methods
    assert method.exclude == ("node0", frail)
    (tmp_path / "recipe.toml").write_text(
        '[[method]]\nname = "int8"\nexclude = ["node1"]\nexclude_file = "fragile.toml"\n'
    )
    (method,) = build([], {}, file=tmp_path / "recipe.toml").methods
    assert method.exclude == ("node1", frail)
    (method,) = build([], {"exclude": ("node2",)}, file=tmp_path / "recipe.toml").methods
    assert method.exclude == ("node2", frail)

    # The bracket in the name is no pattern here: the layer really stays float.
    result = onnxcompress.compress(
        planted(), data=rows(), method="int8", way="static", exclude_file=tmp_path / "fragile.toml"
    )
    ways = {layer.weight: layer.way for layer in result.run.quantizations[0].layers}
    assert frail not in ways
    assert len(ways) == 5


def test_a_list_that_is_none_is_told(tmp_path):
    with pytest.raises(UsageError, match="cannot read the list of layers"):
        excluded_in(tmp_path / "missing.toml")
    (tmp_path / "bad.toml").write_text("exclude = 3")
    with pytest.raises(UsageError, match="needs an entry exclude"):
        excluded_in(tmp_path / "bad.toml")
    (tmp_path / "worse.toml").write_text("exclude = [")
    with pytest.raises(UsageError, match="not valid TOML"):
        excluded_in(tmp_path / "worse.toml")


def test_one_method_is_needed_and_it_must_do_something():
    with pytest.raises(UsageError, match="to one method"):
        stage.sensitivity(planted(), build(["lc-quant", "int8"], {}))
    with pytest.raises(NothingChangedError):
        of(planted(), "int8", exclude=("*",))


@pytest.mark.parametrize("broken", [1, 5])
def test_a_layer_without_a_number_on_any_example_stands_out(broken):
    parts = [stage.Part(f"l{i}", "", (f"l{i}",), lambda: b"") for i in range(8)]
    damages = [Damage(("y",), np.full((50, 1), 0.01), np.ones((50, 1))) for _ in parts]
    for damage in damages[:broken]:
        damage.changes[3] = np.inf
    found = stage.rank(parts, damages, method="m", inputs="", random=False, seed=0)
    assert [layer.name for layer in found.layers if layer.fragile] == [f"l{i}" for i in range(broken)]
    assert np.isfinite(found.threshold)
    assert not any(np.isnan([layer.low, layer.high]).any() for layer in found.layers)


def test_nothing_stands_out_among_equals():
    rng = np.random.default_rng(0)
    parts = [stage.Part(f"l{i}", "", (f"l{i}",), lambda: b"") for i in range(8)]
    damages = [Damage(("y",), 0.04 * rng.chisquare(3, (50, 1)) / 3, np.ones((50, 1))) for _ in parts]
    found = stage.rank(parts, damages, method="m", inputs="", random=False, seed=0)
    assert not any(layer.fragile for layer in found.layers)
    damages[4] = Damage(("y",), 25 * damages[4].changes, damages[4].references)
    found = stage.rank(parts, damages, method="m", inputs="", random=False, seed=0)
    assert [layer.name for layer in found.layers if layer.fragile] == ["l4"]
    tiny = [Damage(("y",), 1e-8 * d.changes, d.references) for d in damages]
    found = stage.rank(parts, tiny, method="m", inputs="", random=False, seed=0)
    assert not any(layer.fragile for layer in found.layers)
