"""``onnxcompress sensitivity`` on the command line: table, plot, list, and what reads the list."""

import json
import tomllib

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
