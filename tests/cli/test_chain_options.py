"""Options of several methods on one command line: each belongs to the --method it is written behind."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.cli import commands
from onnxcompress.cli._chain import Chain, ChainCommand, MethodOption
from onnxcompress.core.errors import UsageError
from onnxcompress.recipe import build

MODEL = Path(__file__).resolve().parents[2] / "fixtures" / "digits_mlp.onnx"


def chain(words: str) -> Chain:
    """Return what the command makes of these words."""
    command = commands.get_command(click.Context(commands), "compress")
    assert isinstance(command, ChainCommand)
    return command.make_context("compress", [str(MODEL), *words.split()]).params["chain"]


def options(words: str) -> list[tuple[str, dict[str, object]]]:
    """Return for each method the options that are not the default ones."""
    given = chain(words)
    methods = build(given.names, given.common, own=given.own).methods
    plain = [type(method)() if method.name != "lc" else method for method in methods]
    return [
        (m.name, {k: v for k, v in vars(m).items() if v != getattr(p, k)})
        for m, p in zip(methods, plain, strict=True)
    ]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--keep 0.3 --method magnitude", [("magnitude", {"keep": 0.3})]),
        ("--method magnitude --keep 0.3", [("magnitude", {"keep": 0.3})]),
        ("--keep 0.3 --method magnitude --keep 0.4", [("magnitude", {"keep": 0.4})]),
        ("--method magnitude --sparsity 0.9", [("magnitude", {"keep": 0.1})]),
        # each its own
        (
            "--method magnitude --keep 0.3 --method lc-prune --keep 0.05",
            [("magnitude", {"keep": 0.3}), ("lc-prune", {"keep": 0.05})],
        ),
        (
            "--method lc-prune --epochs 3 --method finetune --epochs 7",
            [("lc-prune", {"epochs": 3.0}), ("finetune", {"epochs": 7.0})],
        ),
        ("--method lc-prune --method finetune --epochs 7", [("lc-prune", {}), ("finetune", {"epochs": 7.0})]),
        (
            "--method lc-prune --keep 0.2 --method finetune --method lc-prune --sparsity 0.95",
            [("lc-prune", {"keep": 0.2}), ("finetune", {}), ("lc-prune", {"keep": 0.05})],
        ),
        (
            "--method lc-prune --no-augment --method lc-quant --augment --method finetune --no-augment",
            [("lc-prune", {"augment": False}), ("lc-quant", {}), ("finetune", {"augment": False})],
        ),
        # for all
        (
            "--epochs 3 --method lc-prune --method finetune",
            [("lc-prune", {"epochs": 3.0}), ("finetune", {"epochs": 3.0})],
        ),
        (
            "--epochs 3 --keep 0.3 --method lc-prune --method finetune --epochs 7",
            [("lc-prune", {"epochs": 3.0, "keep": 0.3}), ("finetune", {"epochs": 7.0})],
        ),
        (
            "--exclude a --method lc-prune --exclude b --exclude c --method finetune",
            [("lc-prune", {"exclude": ("a", "b", "c")}), ("finetune", {"exclude": ("a",)})],
        ),
        # several goals, one by one
        (
            "--target macs=0.5 --method vib --target params=0.3 --target macs=0.4 --method lc-channels",
            [("vib", {"target": "params=0.3,macs=0.4"}), ("lc-channels", {"target": "macs=0.5"})],
        ),
        # behind a method that does not have it
        ("--method magnitude --method int8 --keep 0.3", [("magnitude", {"keep": 0.3}), ("int8", {})]),
        ("--method half --keep 0.3 --method magnitude", [("half", {}), ("magnitude", {"keep": 0.3})]),
        (
            "--method magnitude --keep 0.3 --method lc-prune --method int8 --keep 0.4",
            [("magnitude", {"keep": 0.3}), ("lc-prune", {"keep": 0.4}), ("int8", {})],
        ),
        (
            "--method lc-prune --exclude a --method dead --exclude b --method finetune",
            [("lc-prune", {"exclude": ("b", "a")}), ("dead", {}), ("finetune", {"exclude": ("b",)})],
        ),
        # a word that only one of those that have the option knows
        (
            "--method magnitude --method lc-quant --granularity weight",
            [("magnitude", {"granularity": "weight"}), ("lc-quant", {})],
        ),
        (
            "--method magnitude --granularity weight --method lc-quant --granularity channel",
            [("magnitude", {"granularity": "weight"}), ("lc-quant", {"granularity": "channel"})],
        ),
    ],
)
def test_which_option_is_for_which_method(words, meant):
    assert options(words) == meant


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "--method magnitude --method finetune --bits 2",
            "--bits is not an option of method finetune and magnitude; it is one of lc-quant",
        ),
        (
            "--method magnitude --keep 0.3 --method int8 --keep 0.4",
            "one --keep is too many: every method that has it was given its own; .* behind that --method",
        ),
        (
            "--keep 0.5 --method magnitude --keep 0.3 --method int8",
            "one --keep is too many: every method that has it was given its own",
        ),
        (
            "--keep 0.5 --method magnitude --method int8 --keep 0.3",
            "--keep is given twice for the same methods",
        ),
        (
            "--method magnitude --keep 0.3 --method finetune --sparsity 0.3 --keep 0.3",
            "--keep and --sparsity say the same",
        ),
        (
            "--method magnitude --granularity weight --method lc-quant --granularity weight",
            "one --granularity is too many",
        ),
        ("--method magnitude --granularity group --method finetune", "--granularity must be one of channel"),
        ("--method lc-prune --keep 0.3 --method magnitude --keep 3", "--keep"),
        ("--method vib --target macs=0.5 --target macs=0.4", "'macs=0.5,macs=0.4' names macs twice"),
        ("--method magnitude --target macs=0.5 --target params=0.4", "this method holds one"),
        (
            "--keep 0.5 --target macs=0.5 --method magnitude --method lc-lowrank",
            "exclude each other.*behind that",
        ),
        ("--method lc-prune --method finetune --epochs many", "'many' is not a valid float"),
    ],
)
def test_what_is_for_no_method_or_wrong_is_one_sentence(call, folder, words, says):
    before = sorted(folder.iterdir())
    done = call(f"digits_mlp.onnx --no-bench {words}")
    assert done.code == 2, done
    errors = [line for line in done.err.splitlines() if not line.startswith(("Usage: ", "       "))]
    assert len(errors) == 1, done.err
    assert re.search(says, errors[0]), errors[0]
    assert sorted(folder.iterdir()) == before


def test_a_wrong_option_of_one_method_alone_does_not_speak_of_the_others():
    with pytest.raises(UsageError) as caught:
        build(["lc-prune", "magnitude"], {}, own=[{}, {"keep": 3.0}])
    assert "behind" not in str(caught.value)


VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.3]), max_size=2)


@settings(max_examples=60, deadline=None)
@given(before=VALUES, parts=st.lists(st.tuples(st.booleans(), VALUES), min_size=2, max_size=4))
def test_the_last_value_in_a_place_counts_there(before, parts):
    """Two methods that have an option, one that has not, in any order, with values in any place."""

    def text(values):
        return [word for value in values for word in ("--keep", str(value))]

    words = text(before)
    for has, values in parts:
        words += ["--method", "magnitude" if has else "half", *text(values)]
    misplaced = [values[-1] for has, values in parts if not has and values]
    given = chain(" ".join(words))
    shared = [*before[-1:], *misplaced]
    owners = [values[-1] if values else None for has, values in parts if has]
    if (shared and None not in owners) or len(shared) > 1:
        with pytest.raises(UsageError):
            build(given.names, given.common, own=given.own)
        return
    found = build(given.names, given.common, own=given.own).methods
    expected = [own if own is not None else (shared or [None])[0] for own in owners]
    assert [m.keep for m in found if m.name == "magnitude"] == expected


def test_a_chain_with_its_own_options_end_to_end(tmp_path):
    words = "--exclude fc1* --method lc-prune --keep 0.2 --method lc-quant --bits 3 --exclude fc3*"
    saved, out = tmp_path / "r.toml", tmp_path / "out.onnx"
    done = CliRunner().invoke(
        commands, [str(MODEL), str(out), *words.split(), "--no-bench", "-q", "--save-recipe", str(saved)]
    )
    assert done.exception is None, done.output
    prune, quant = tomllib.loads(saved.read_text())["method"]
    assert (prune["name"], prune["keep"], prune["exclude"]) == ("lc-prune", 0.2, ["fc1*"])
    assert (quant["name"], quant["bits"], quant["exclude"]) == ("lc-quant", 3, ["fc1*", "fc3*"])
    again = tmp_path / "again.onnx"
    repeat = [str(MODEL), str(again), "--recipe", str(saved), "--no-bench", "-q"]
    assert CliRunner().invoke(commands, repeat).exception is None
    assert again.read_bytes() == out.read_bytes()


def test_lists_of_layers_to_leave_alone_belong_to_a_method_too(tmp_path):
    (tmp_path / "one.toml").write_text('exclude = ["fc1.weight"]\n')
    (tmp_path / "two.toml").write_text('exclude = ["fc2.weight"]\n')
    words = "--method lc-prune --exclude-file {0}/one.toml --method lc-quant --exclude-file {0}/two.toml"
    given = chain(words.format(tmp_path))
    first, second = build(given.names, given.common, own=given.own).methods
    assert (first.exclude, second.exclude) == (("fc1.weight",), ("fc2.weight",))


def test_a_recipe_file_with_flags_for_its_methods(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(
        '[[method]]\nname = "lc-prune"\nkeep = 0.2\n[[method]]\nname = "finetune"\nepochs = 2.0\n'
    )
    flags = chain("--epochs 4")
    assert [m.epochs for m in build(flags.names, flags.common, own=flags.own, file=file).methods] == [
        4.0,
        4.0,
    ]
    flags = chain("--method lc-prune --method finetune --epochs 4")
    prune, finetune = build(flags.names, flags.common, own=flags.own, file=file).methods
    assert (prune.keep, prune.epochs, finetune.epochs) == (0.2, None, 4.0)


def test_help_tells_the_rule_and_the_options_of_methods_apart():
    done = CliRunner().invoke(commands, ["--help"])
    text = " ".join(done.output.split())
    own, methods = text.split("Options of methods:")
    assert "belongs to the --method it is written behind" in methods
    assert "--max-size-ratio" in own
    assert "--max-size-ratio" not in methods
    assert "--keep FLOAT" in methods
    assert "--keep FLOAT" not in own


def test_every_option_of_a_method_is_one_of_methods():
    command = commands.get_command(click.Context(commands), "compress")
    of_methods = {p.name for p in command.params if isinstance(p, MethodOption)}
    assert {"keep", "bits", "rank", "part", "include", "sparsity", "exclude_file", "epochs"} <= of_methods
    assert not of_methods & {"methods", "data", "output", "seed", "max_bytes", "recipe", "threads"}
