"""``onnxcompress sensitivity`` on the command line: table, plot, list, and what reads the list."""

import json
import re
import tomllib

import pytest

LC = "sensitivity digits_mlp.onnx --method lc-quant --bits 1"


def test_ranking_is_shown_and_the_list_written(folder, call):
    done = call(LC + " --data digits.npz -n 20 --above 0.1 -o fragile.toml --report s.html --report s.json")
    assert done.code == 0, done.err
    assert "Damage of each layer alone" in done.out
    assert "▇" in done.out
    assert "20 training examples" in done.out
    assert "wrote fragile.toml" in done.out
    names = tomllib.loads((folder / "fragile.toml").read_text())["exclude"]
    run = json.loads((folder / "s.json").read_text())
    assert run["kind"] == "sensitivity"
    ranked = run["sensitivity"]["layers"]
    assert set(names) == {layer["name"] for layer in ranked if layer["fragile"]}
    assert ranked == sorted(ranked, key=lambda layer: -layer["relative_l2"])
    page = (folder / "s.html").read_text()
    assert "<svg" in page
    assert "Change of the outputs when one layer alone is compressed" in page


def test_the_list_goes_into_a_compression(folder, call):
    (folder / "fragile.toml").write_text('exclude = ["fc2.weight"]\n')
    done = call("digits_mlp.onnx --method lc-quant --bits 4 --exclude-file fragile.toml --no-bench -v")
    assert done.code == 0, done.err
    assert "excluded by --exclude" in done.out
    recipe = call("digits_mlp.onnx --method lc-quant --exclude-file missing.toml")
    assert recipe.code == 2
    assert "cannot read the list of layers" in recipe.err


@pytest.mark.parametrize("command", ["{} --no-bench", "sensitivity {} -n 4"])
@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["fc2.weight", "conv9"], r"1 of the 2 names in the list .* matches no .*fragile.toml\): 'conv9';"),
        (["a", "b*", "c", "d", "fc1*"], r"4 of the 5 names .* match no .*: 'a', 'b\*', 'c' …;"),
        (["fc1.bias"], r"1 of the 1 names .*: 'fc1.bias';"),
    ],
)
def test_a_list_of_another_model_is_refused_before_data_is_read(folder, call, command, names, says):
    (folder / "fragile.toml").write_text(f"exclude = {json.dumps(names)}\n")
    words = command.format("digits_mlp.onnx") + " --method lc-quant --bits 4 --exclude-file fragile.toml"
    done = call(f"{words} --data missing.npz")
    assert done.code == 2
    assert re.search(says, done.err), done.err
    assert done.err.count("\n") == 1


def test_a_list_may_hold_patterns_and_be_empty(folder, call):
    for names in ([], ["fc2*", "fc3"]):
        (folder / "fragile.toml").write_text(f"exclude = {json.dumps(names)}\n")
        words = "--method lc-quant --bits 4 --exclude-file fragile.toml --no-bench -q --overwrite"
        assert call(f"digits_mlp.onnx {words}").code == 0


def test_the_list_of_a_later_method_is_looked_at_when_it_runs(folder, call):
    (folder / "fragile.toml").write_text('exclude = ["conv9"]\n')
    words = "--method half --method lc-quant --bits 4 --exclude-file fragile.toml --no-bench -q"
    done = call(f"digits_mlp.onnx {words}")
    assert done.code == 2
    assert "--exclude 'conv9' matches no weight" in done.err


def test_random_inputs_are_said_loudly(folder, call):
    done = call(LC + " -n 4")
    assert done.code == 0, done.err
    assert "random inputs" in done.out


def test_what_cannot_be_is_one_sentence(folder, call):
    assert call("sensitivity digits_mlp.onnx").code == 2
    done = call(LC + " -o list.txt")
    assert done.code == 2
    assert "let it end in .toml" in done.err
    done = call("sensitivity digits_mlp.onnx --method lc-quant --exclude *")
    assert done.code == 4
    assert "would change no layer" in done.err


def test_a_method_that_decides_by_training_wants_data(folder, call):
    for method in ("vib --epochs 1", "finetune"):
        done = call(f"sensitivity digits_mlp.onnx --method {method} -q")
        assert done.code == 2
        assert "needs data: it decides by training" in done.err
    vib = "--method vib --target macs=0.5 --epochs 1 --after 0"
    words = f"sensitivity digits_mlp.onnx {vib} -n 4 --report s.json -q"
    for data, random in (("--data digits.npz", False), ("--random-data", True)):
        done = call(f"{words} {data}")
        assert done.code == 0, done.err
        (method,) = json.loads((folder / "s.json").read_text())["methods"]
        assert method["duration_s"] > 0
        assert method["training"]["random_data"] == random
    assert call("report s.json --html s.html").code == 0


def test_a_method_that_can_do_without_training_needs_no_data(folder, call):
    for method in ("lc-quant --bits 2", "int8 --way dynamic", "magnitude"):
        assert call(f"sensitivity digits_mlp.onnx --method {method} -n 4 -q").code == 0
