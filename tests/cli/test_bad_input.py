"""Whatever is wrong, the user gets one sentence and the right exit code, and the folder stays as it was."""

from __future__ import annotations

import os
import re
import shutil
import sys
import typing
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxcompress.methods._base import METHODS
from onnxcompress.methods._options import option_fields

USAGE, GATE, UNSUPPORTED = 2, 3, 4
LC = "digits_mlp.onnx --method lc-quant --no-bench"


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return every path under the folder with its mode and bytes."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def refused(call, folder, code, words, *more, says=""):
    """Assert that the call fails with this code, one sentence on stderr, and changes nothing on disk."""
    before = listing(folder)
    done = call(words, *more)
    assert done.code == code, done
    errors = [line for line in done.err.splitlines() if not line.startswith(("Usage: ", "       "))]
    assert len(errors) == 1, done.err
    assert errors[0].startswith("error: ")
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    assert not re.search(r"\b(None|Errno|<class|object at 0x)", errors[0]), errors[0]
    assert re.search(says, errors[0]), errors[0]
    assert listing(folder) == before
    return errors[0]


# the model ---------------------------------------------------------------------------------------------


def write_model(path: Path, nodes, arrays, *, inputs=None, outputs=None, functions=()) -> None:
    graph = helper.make_graph(
        nodes,
        "g",
        inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        outputs or [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("custom", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("this is not a model\n" * 20)


def truncated(path):
    whole = (path.parent / "digits_mlp.onnx").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def directory(path):
    path.mkdir()


def without_its_data(path):
    shutil.copyfile(path.parent / "external.onnx", path)
    (path.parent / "external.bin").unlink()


def with_short_data(path):
    shutil.copyfile(path.parent / "external.onnx", path)
    (path.parent / "external.bin").write_bytes(b"\0" * 100)


def with_data_elsewhere(path):
    model = onnx.load(path.parent / "external.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../external.bin"
    path.write_bytes(model.SerializeToString())


def custom_operator(path):
    write_model(
        path,
        [helper.make_node("Strange", ["x", "w"], ["y"], domain="custom")],
        {"w": np.ones((64, 64), np.float32)},
    )


def unknown_operator(path):
    write_model(path, [helper.make_node("NoSuchOp", ["x", "w"], ["y"])], {"w": np.ones((8, 8), np.float32)})


def holding(number):
    def make(path):
        w = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
        w[1, 2] = number
        v = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
        nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "v"], ["y"])]
        write_model(path, nodes, {"w": w, "v": v})

    return make


def without_weights(path):
    write_model(path, [helper.make_node("Relu", ["x"], ["y"])], {})


def with_whole_numbers_only(path):
    kinds = {"inputs": [helper.make_tensor_value_info("x", TensorProto.INT32, ["N", 8])]}
    kinds["outputs"] = [helper.make_tensor_value_info("y", TensorProto.INT32, ["N", 64])]
    write_model(
        path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((8, 64), np.int32)}, **kinds
    )


def newer_than_onnxruntime(path):
    model = onnx.load(path.parent / "digits_mlp.onnx")
    model.opset_import[0].version = 999
    path.write_bytes(model.SerializeToString())


MODELS = {
    "empty": (empty, "empty"),
    "text": (text, "cannot import"),
    "truncated": (truncated, "cannot import"),
    "no external data": (without_its_data, "external.bin"),
    "short external data": (with_short_data, "external.bin"),
    "external data elsewhere": (with_data_elsewhere, "external"),
    "custom operator": (custom_operator, "Strange"),
    "unknown operator": (unknown_operator, "NoSuchOp"),
    "NaN": (holding(np.nan), "'w'.*NaN|NaN.*'w'"),
    "infinity": (holding(np.inf), "'w'"),
    "no weights": (without_weights, "nothing would change"),
    "whole numbers only": (with_whole_numbers_only, "nothing would change"),
    "operator set of the future": (newer_than_onnxruntime, "999"),
}


@pytest.mark.parametrize("which", MODELS)
def test_models_that_cannot_be_compressed(call, folder, which):
    make, says = MODELS[which]
    make(folder / "bad.onnx")
    refused(call, folder, UNSUPPORTED, "bad.onnx --method lc-quant --bits 2 --no-bench", says=says)


@pytest.mark.parametrize("command", ["inspect", "bench", "compare digits_mlp.onnx"])
@pytest.mark.parametrize("which", ["empty", "text", "truncated", "custom operator"])
def test_other_commands_refuse_them_too(call, folder, command, which):
    make, says = MODELS[which]
    make(folder / "bad.onnx")
    refused(call, folder, UNSUPPORTED, f"{command} bad.onnx", says=says)


@pytest.mark.parametrize(
    "command", ["{} --method lc-quant", "inspect {}", "bench {}", "compare digits_mlp.onnx {}"]
)
def test_a_model_that_is_missing_or_a_folder(call, folder, command):
    (folder / "there").mkdir()
    refused(call, folder, USAGE, command.format("missing.onnx"), says="missing.onnx.*no such file")
    refused(call, folder, USAGE, command.format("there"), says="there.*folder")


# options -----------------------------------------------------------------------------------------------

OPTIONS = {
    "--bits 0": "1 to 8",
    "--bits 9": "1 to 8",
    "--bits two": "two",
    "--entries 1": "2 to 256",
    "--entries 257": "2 to 256",
    "--bits 2 --entries 4": "exclude each other",
    "--codebook fancy": "fancy",
    "--codebook binary --bits 3": "binary",
    "--granularity group": "--group-size",
    "--group-size 0": "--group-size",
    "--joint --granularity channel": "--joint",
    "--include nothing*": "nothing\\*",
    "--exclude nothing*": "nothing\\*",
    "--keep 0.5": "--keep",
    "--lr nan": "--lr",
    "--lr inf": "--lr",
    "--growth nan": "--growth",
    "--steps 0": "--steps",
    "--epochs -1": "--epochs",
    "--seed -1": "--seed",
    "--threads 0": "--threads",
    "--threads 100000": "--threads",
    "--lr 1e300": "--lr must be at most 1e\\+06: found 1e\\+300",
    "--growth 1e300": "--growth must be at most",
    "--mu0 1e300": "--mu0 must be at most",
    "--steps 1" + 400 * "0": "--steps must be at most",
    "--epochs 1e300": "--epochs must be at most",
    "--max-time 0": "--max-time",
    "--max-time nan": "--max-time",
    "--limit 0": "--limit",
    "--input-shape image": "--input-shape",
    "--input-shape image:1,a": "--input-shape",
    "--input-shape image:x": "--input-shape",
    "--input-shape picture:1,1,8,8": "picture",
    "--input-shape image:1,3,8,8": "image",
    "--input-shape image:1,1,8": "image",
    "--input-shape image:1,1,8,8 --input-shape image:2,1,8,8": "'image' twice: found 1,1,8,8 and 2,1,8,8",
    "--max-size-ratio small": "small",
    "--max-size-ratio nan": "--max-size-ratio",
    "--max-size-ratio inf": "--max-size-ratio",
    "--max-latency-ratio 1": "--max-latency-ratio",
    "--max-drop 0.1": "--max-drop",
    "--labels y_train": "--data",
    "--loss ce": "--data",
    "--val 0.1": "--data",
    "--device tpu": "tpu",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options_that_are_wrong(call, folder, options):
    refused(call, folder, USAGE, f"{LC} {options}", says=OPTIONS[options])


def test_numbers_that_nobody_means_are_refused_by_every_method(call, folder):
    unbounded = {"max_error"}  # a limit that a large number only loosens
    for name, method in METHODS.items():
        hints = typing.get_type_hints(method)
        for option in option_fields(method):
            if hints[option] in (float, float | None) and option not in unbounded:
                flag = "--" + option.replace("_", "-")
                refused(call, folder, USAGE, f"digits_mlp.onnx --method {name} {flag} 1e300", says=flag)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("digits_mlp.onnx", "--method"),
        ("digits_mlp.onnx --method lcquant", "did you mean 'lc-quant'"),
        ("digits_mlp.onnx --method zip", "lc-quant"),
        ("digits_mlp.onnx --method lc-quant --bitz 2", "--bitz"),
        ("digits_mlp.onnx --method", "--method"),
        ("--method lc-quant", "IN.onnx"),
        ("digits_mlp.onnx a.onnx b.onnx --method lc-quant", "b.onnx"),
        ("digits_mlp.onnx a.onnx -o b.onnx --method lc-quant", "twice"),
        ("compare digits_mlp.onnx", "two or more"),
        ("compare digits_mlp.onnx embedding.onnx --random-data", "No such option"),
        ("compare digits_mlp.onnx digits_mlp.onnx --labels y_train", "--data"),
        ("bench", "A.onnx"),
        ("list nothing", "nothing"),
        ("inspect", "IN.onnx"),
    ],
)
def test_commands_that_are_wrong(call, folder, words, says):
    refused(call, folder, USAGE, words, says=says)


def test_an_accelerator_that_is_not_there(call, folder):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    data = "--data digits.npz --steps 1 --epochs 1 --limit 64"
    refused(call, folder, USAGE, f"{LC} --bits 2 --device cuda", says="cuda")
    refused(call, folder, USAGE, f"{LC} --bits 2 {data} --device cuda", says="cuda")


# outputs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("-o digits_mlp.onnx", "the output is the input"),
        ("-o digits_mlp.onnx --overwrite", "the output is the input"),
        ("-o ./there/../digits_mlp.onnx --overwrite", "the output is the input"),
        ("-o embedding.onnx", "the output exists"),
        ("-o missing/out.onnx", "no folder"),
        ("-o there", "it is a folder"),
        ("-o digits.npz/out.onnx", "no folder"),
        (f"-o {'a' * 300}.onnx", "too long"),
        ("-o out.onnx --report run.pdf", "pdf"),
        ("-o out.onnx --report run", "suffix"),
        ("-o out.onnx --report missing/run.json", "no folder"),
        ("-o out.onnx --report there.html", "it is a folder"),
        (f"-o out.onnx --report {'a' * 300}.html", "too long"),
        (f"-o out.onnx --save-recipe {'a' * 300}.toml", "too long"),
        ("-o out.onnx --report out.json --report out.json", "twice"),
        ("-o out.json --report out.json", "twice"),
        ("-o out.onnx --save-recipe missing/r.toml", "folder"),
        ("-o out.onnx --save-recipe there", "it is a folder"),
        ("-o out.onnx --save-recipe digits_mlp.onnx", "toml"),
        ("-o out.onnx --checkpoint digits.npz --data digits.npz --limit 64 --steps 1 --lr .01", "digits.npz"),
    ],
)
def test_places_that_cannot_be_written(call, folder, options, says):
    (folder / "there").mkdir()
    (folder / "there.html").mkdir()
    refused(call, folder, USAGE, f"{LC} --bits 2 {options}", says=says)


def test_an_output_that_exists_under_its_default_name(call, folder):
    (folder / "digits_mlp.lc-quant.onnx").write_text("precious")
    refused(call, folder, USAGE, f"{LC} --bits 2", says="digits_mlp.lc-quant.onnx")


def test_a_folder_without_the_right_to_write(call, folder):
    (folder / "locked").mkdir(mode=0o500)
    if os.access(folder / "locked", os.W_OK):
        pytest.skip("this user may write everywhere")
    refused(call, folder, USAGE, f"{LC} --bits 2 -o locked/out.onnx", says="not writable")


def test_a_link_to_the_input_is_the_input(call, folder):
    (folder / "link.onnx").symlink_to("digits_mlp.onnx")
    refused(call, folder, USAGE, f"{LC} --bits 2 -o link.onnx --overwrite", says="the output is the input")


# recipes -----------------------------------------------------------------------------------------------

RECIPES = {
    "seed = ": "not valid TOML",
    "colour = 1": "colour",
    "seed = 'a'\n[[method]]\nname = 'lc-quant'": "seed",
    "seed = -1\n[[method]]\nname = 'lc-quant'": "seed",
    "seed = 1.5\n[[method]]\nname = 'lc-quant'": "seed",
    "data = 3\n[[method]]\nname = 'lc-quant'": r"\[data\]",
    "[data]\nfolder = 'a'\n[[method]]\nname = 'lc-quant'": "folder",
    "[data]\nval = 'a'\n[[method]]\nname = 'lc-quant'": "--val",
    "[data]\npath = 3\n[[method]]\nname = 'lc-quant'": r"\[data\]",
    "[data]\nlabels = 'y_train'\n[[method]]\nname = 'lc-quant'": "--data",
    "method = 'lc-quant'": r"\[\[method\]\]",
    "[[method]]\nbits = 2": "name",
    "[[method]]\nname = 3": "name",
    "[[method]]\nname = 'zip'": "zip",
    "[[method]]\nname = 'lc-quant'\nbitz = 2": "did you mean 'bits'",
    "[[method]]\nname = 'lc-quant'\nbits = 'two'": "bits",
    "[[method]]\nname = 'lc-quant'\nbits = 2.5": "bits",
    "[[method]]\nname = 'lc-quant'\nbits = true": "bits",
    "[[method]]\nname = 'lc-quant'\nbits = 9": "1 to 8",
    "[[method]]\nname = 'lc-quant'\njoint = 'yes'": "joint",
    "[[method]]\nname = 'lc-quant'\ncodebook = 'fancy'": "adaptive",
    "[[method]]\nname = 'lc-quant'\nlr = nan": "lr",
    "[[method]]\nname = 'lc-quant'\nexclude = [1]": "exclude",
    "": "--method",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_that_are_wrong(call, folder, recipe):
    (folder / "r.toml").write_text(recipe)
    refused(call, folder, USAGE, "digits_mlp.onnx --recipe r.toml --no-bench", says=RECIPES[recipe])


def test_a_method_of_a_recipe_that_cannot_be_is_named_with_its_file(call, folder):
    good = "[[method]]\nname = 'lc-quant'\nbits = 2\n"
    (folder / "chain.toml").write_text(good + "[[method]]\nname = 'magnitude'\nkeep = 3")
    words, says = "digits_mlp.onnx --recipe chain.toml", r"chain.toml, method 2, magnitude\)"
    refused(call, folder, USAGE, words, says=says)


@pytest.mark.parametrize("recipe", ["missing.toml", ".", "digits.npz"])
def test_recipes_that_cannot_be_read(call, folder, recipe):
    refused(call, folder, USAGE, f"digits_mlp.onnx --recipe {recipe} --no-bench", says="recipe")


# data --------------------------------------------------------------------------------------------------

X = np.zeros((20, 1, 8, 8), np.float32)
Y = np.arange(20) % 10

DATA = {
    "empty arrays": ({"x": X[:0], "y": Y[:0]}, "empty"),
    "wrong shape": ({"x": np.zeros((20, 3, 5, 5), np.float32), "y": Y}, "image|shape"),
    "text": ({"x": np.full((20, 1, 8, 8), "a"), "y": Y}, "type|numbers"),
    "complex numbers": ({"x": X.astype(np.complex64), "y": Y}, "complex"),
    "objects": ({"x": np.array([{}] * 20), "y": Y}, "object|pickle"),
    "labels out of range": ({"x": X, "y": Y + 5}, "out of range"),
    "negative labels": ({"x": X, "y": Y - 1}, "out of range"),
    "labels that fit nothing": ({"x": X, "y": np.zeros((20, 3, 4))}, "fit no output"),
    "different lengths": ({"x": X, "y": Y[:7]}, "number of examples"),
    "NaN": ({"x": np.full_like(X, np.nan), "y": Y}, "NaN"),
    "labels of NaN": ({"x": X, "y": np.full(20, np.nan)}, "NaN"),
    "no such input": ({"sound": X, "voice": X, "y": Y}, "image"),
    "scalar": ({"x": np.float32(1), "y": Y}, "example|scalar|axis|shape"),
}


@pytest.mark.parametrize("which", DATA)
def test_data_that_does_not_fit(call, folder, which):
    arrays, says = DATA[which]
    np.savez(folder / "data.npz", **arrays)
    refused(call, folder, USAGE, f"{LC} --bits 2 --data data.npz --steps 1 --lr 0.01", says=says)


def garbage(path):
    path.write_bytes(b"garbage" * 9)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".txt", ".py:function", ".png", ""])
@pytest.mark.parametrize("make", [None, empty, garbage, directory])
def test_data_that_cannot_be_read(call, folder, make, suffix, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)  # as for a user who set nothing
    if make is not None:
        make(folder / f"data{suffix.partition(':')[0]}")
    refused(call, folder, USAGE, f"{LC} --bits 2 --data data{suffix}", says="data")


DATA_OPTIONS = {
    "--val 0": "--val",
    "--val -1": "--val",
    "--val nan": "--val",
    "--val 100000": "--val",
    "--limit 0": "--limit",
    "--loss fancy": "fancy",
    "--loss mod:fun": "mod:fun",
    "--metric fancy": "fancy",
    "--labels nope": "nope",
    "--scale a": "--scale",
    "--scale 1/0": "--scale",
    "--scale nan": "--scale",
    "--scale 1e300": r"too large for float32 .*scaled by 1e\+300",
    "--std 1e-300": r"too large for float32 .*divided by \(1e-300\)",
    "--mean 1,2,3": "mean",
    "--std 0": "std",
    "--mean nan": "--mean",
    "--image-size 0": "--image-size",
    "--layout hwcn": "hwcn",
    "--random-data": "exclude each other",
    "--batch-size 0": "--batch-size",
}


@pytest.mark.parametrize("options", DATA_OPTIONS)
def test_data_options_that_are_wrong(call, folder, options):
    words = f"{LC} --bits 2 --data digits.npz --steps 1 --lr 0.01 {options}"
    refused(call, folder, USAGE, words, says=DATA_OPTIONS[options])


# stored runs and checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [None, "", "not json", "[]", "{}", '{"schema": "onnxcompress.run/1"}', "\xff"]
)
def test_runs_that_cannot_be_read(call, folder, content):
    if content is not None:
        (folder / "run.json").write_bytes(content.encode("latin-1"))
    refused(call, folder, USAGE, "report run.json", says="run.json")


@pytest.mark.parametrize("words", ["--html run.json", "--md run.json", "--html out.md", "--md out.html"])
def test_a_report_of_another_kind_than_asked_for(call, folder, words):
    assert call("inspect digits_mlp.onnx -q --report run.json").code == 0
    before = (folder / "run.json").read_bytes()
    refused(call, folder, USAGE, f"report run.json {words}", says="let it end in")
    assert (folder / "run.json").read_bytes() == before


def test_a_checkpoint_of_another_run(call, folder):
    words = f"{LC} --data digits.npz --steps 1 --epochs 1 --limit 64 --lr .01"
    assert call(f"{words} --bits 2 --checkpoint state --dry-run -q").code == 0
    refused(call, folder, USAGE, f"{words} --bits 1 --resume state", says="bits")


@pytest.mark.parametrize("changed", ["--keep 0.25", "--importance random"])
def test_a_checkpoint_of_a_chain_that_began_otherwise(call, folder, changed):
    """Options of the method before are no options of the one that is resumed, but its weights are."""
    words = "digits_mlp.onnx --data digits.npz --limit 64 --no-bench --dry-run -q {} --method magnitude {}"
    after = "--method finetune --epochs 1 --lr 0.001"
    assert call(f"{words.format('--checkpoint state', '--keep 0.5')} {after}").code == 0
    resumed = "--resume state"
    refused(call, folder, USAGE, f"{words.format(resumed, changed)} {after}", says="weights before")
    assert call(f"{words.format(resumed, '--keep 0.5')} {after}").code == 0


def test_nothing_to_resume(call, folder):
    words = "digits_mlp.onnx --method lc-quant --bits 2 --data digits.npz --steps 1 --no-bench"
    refused(call, folder, USAGE, f"{words} --resume nowhere", says="nowhere")


def test_a_mistake_of_ours_is_one_line_with_exit_code_1(call, folder, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("boom")

    monkeypatch.setattr("onnxcompress.pipeline.compress", broken)
    done = call(f"{LC} --bits 2")
    assert done.code == 1
    assert done.err.startswith("internal error: ZeroDivisionError: boom")
    assert "Traceback" not in done.err
    assert "Traceback" in call(f"{LC} --bits 2 --debug").err
