"""Recipes: from flags, from a file, from both, and back."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxcompress.core.errors import OutputError, UsageError
from onnxcompress.methods._options import option_fields
from onnxcompress.methods.lc_quant import LcQuant
from onnxcompress.recipe import Recipe, build

FILE = """
seed = 7
[data]
path = "a.npz"
labels = "y"
[[method]]
name = "lc-quant"
bits = 3
exclude = ["conv1.*"]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(FILE)
    return path


def test_from_flags_with_defaults():
    recipe = build(["lc-quant"], {"bits": 2, "lr": None})
    assert recipe == Recipe((LcQuant(bits=2),), {}, 0)


def test_from_a_file(file):
    recipe = build([], {}, file=file)
    assert recipe == Recipe((LcQuant(bits=3, exclude=("conv1.*",)),), {"path": "a.npz", "labels": "y"}, 7)


def test_a_word_goes_to_the_methods_that_know_it():
    weight, book = build(["magnitude", "lc-quant"], {"granularity": "weight"}).methods
    assert (weight.granularity, book.granularity) == ("weight", "tensor")
    weight, book = build(["magnitude", "lc-quant"], {"granularity": "channel"}).methods
    assert (weight.granularity, book.granularity) == ("channel", "channel")
    with pytest.raises(UsageError, match="must be one of"):
        build(["magnitude"], {"granularity": "tensor"})


def test_flags_win_over_the_file_one_by_one(file):
    recipe = build([], {"bits": 1}, data={"path": "b.npz", "labels": None}, seed=0, file=file)
    assert recipe.methods == (LcQuant(bits=1, exclude=("conv1.*",)),)
    assert recipe.data == {"path": "b.npz", "labels": "y"}
    assert recipe.seed == 0


def test_data_of_a_flag_takes_the_place_of_the_random_numbers_of_the_file_and_the_reverse(tmp_path):
    file = tmp_path / "r.toml"
    for own, flag in (
        ("random = true\nlimit = 5", {"path": "b.npz"}),
        ('path = "a.npz"\nlimit = 5', {"random": True}),
    ):
        file.write_text(f'[data]\n{own}\n[[method]]\nname = "half"\n')
        assert build([], {}, data=flag, file=file).data == {**flag, "limit": 5}
        assert set(build([], {}, data={"limit": 3}, file=file).data) == {own.split()[0], "limit"}


def test_a_named_method_keeps_its_options_of_the_file(file):
    assert build(["lc-quant"], {}, file=file).methods[0].bits == 3


def test_a_named_method_that_the_file_has_twice_is_none_of_them(tmp_path):
    file = tmp_path / "r.toml"
    entry = '[[method]]\nname = "lc-quant"\nbits = {}\n'
    file.write_text(entry.format(2) + '[[method]]\nname = "half"\n' + entry.format(4))
    with pytest.raises(UsageError, match=r"names one of several .*r\.toml.* methods 1 and 3"):
        build(["lc-quant"], {}, file=file)
    assert [m.name for m in build(["half"], {}, file=file).methods] == ["half"]
    assert [getattr(m, "bits", None) for m in build([], {}, file=file).methods] == [2, None, 4]


def test_the_dict_holds_every_option_that_is_used(file):
    stored = build([], {}, file=file).to_dict()
    (method,) = stored["method"]
    assert method["name"] == "lc-quant"
    assert method["mode"] == "lc"
    assert set(method) <= {"name", *option_fields(LcQuant)}
    assert json.loads(json.dumps(stored)) == stored


def test_data_in_memory_is_told_by_its_kind():
    recipe = build(["lc-quant"], {}, data={"path": iter([]), "mean": [1.0, 2.0], "loss": len})
    json.dumps(recipe.to_dict())
    assert "memory" in recipe.to_dict()["data"]["path"]
    assert recipe.to_dict()["data"]["mean"] == [1.0, 2.0]
    assert build(["lc-quant"], {}, data={"path": Path("a.npz")}).to_dict()["data"] == {"path": "a.npz"}


globs = st.lists(st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()), max_size=3).map(tuple)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.none() | st.integers(1, 8),
    lr=st.none() | st.floats(1e-6, 10),
    pin_zero=st.booleans(),
    exclude=globs,
    seed=st.integers(0, 2**31),
    val=st.none() | st.floats(0.01, 0.9) | st.integers(1, 100),
)
def test_saved_and_read_it_is_the_same(tmp_path, bits, lr, pin_zero, exclude, seed, val):
    options = {"bits": bits, "lr": lr, "pin_zero": pin_zero, "exclude": exclude}
    recipe = build(["lc-quant"], options, data={"path": "a.npz", "val": val}, seed=seed)
    recipe.save(tmp_path / "r.toml")
    assert build([], {}, file=tmp_path / "r.toml") == recipe
    assert tomllib.loads((tmp_path / "r.toml").read_text(encoding="utf-8")) == recipe.to_dict()


def test_a_recipe_that_cannot_be_written(tmp_path):
    recipe = build(["lc-quant"], {})
    for place in (tmp_path, tmp_path / "missing" / "r.toml"):
        with pytest.raises(OutputError, match="cannot write the recipe"):
            recipe.save(place)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bitz": 2}, "--bitz.*did you mean 'bits'"),
        ({"bits": "2"}, "--bits must be a whole number"),
        ({"bits": 2.0}, "--bits must be a whole number"),
        ({"bits": True}, "--bits must be a whole number"),
        ({"lr": "fast"}, "--lr must be a number"),
        ({"lr": float("inf")}, "--lr must be a finite number"),
        ({"joint": 1}, "--joint must be true or false"),
        ({"codebook": "fancy"}, "--codebook must be one of adaptive, trellis, binary"),
        ({"include": [1]}, "--include must be a list, each a text"),
        ({"include": 3}, "--include must be a list, each a text"),
    ],
)
def test_options_of_the_wrong_kind(options, says):
    with pytest.raises(UsageError, match=says):
        build(["lc-quant"], options)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"labelz": "y"}, "did you mean 'labels'"),
        ({"val": "many"}, "--val must be a number"),
        ({"limit": 2.5}, "--limit must be a whole number"),
        ({"layout": "hwcn"}, "--layout must be one of auto, nchw, nhwc"),
        ({"mean": [0.5, "a"]}, "--mean must be a list, each a number"),
        ({"loss": 3}, "--loss must be a text or a function"),
    ],
)
def test_data_options_of_the_wrong_kind(data, says):
    with pytest.raises(UsageError, match=says):
        build(["lc-quant"], {}, data=data)


def test_numbers_and_lists_of_python_are_understood():
    recipe = build(
        ["lc-quant"],
        {"bits": np.int64(2), "lr": 1, "include": "fc*"},
        data={"mean": 0.5, "std": (1, 2), "image_size": 32},
        seed=3,
    )
    assert recipe.methods[0].include == ("fc*",)
    text = json.dumps(recipe.to_dict())
    assert json.loads(text)["method"][0]["bits"] == 2
    assert json.loads(text)["seed"] == 3


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_seeds_that_are_none(seed):
    with pytest.raises(UsageError, match="seed"):
        build(["lc-quant"], {}, seed=seed)


def test_methods_that_do_not_exist():
    with pytest.raises(UsageError, match="did you mean 'lc-quant'"):
        build(["lc_quant"], {})
    with pytest.raises(UsageError, match="no method is chosen"):
        build([], {})


def test_an_option_that_one_of_several_methods_cannot_take_says_how_to_give_it_to_one():
    with pytest.raises(UsageError, match=r"method 'magnitude'.*exclude each other.*in a recipe") as caught:
        build(["magnitude", "lc-lowrank"], {"keep": 0.5, "target": "macs=0.5"})
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError) as alone:
        build(["magnitude"], {"keep": 0.5, "target": "macs=0.5"})
    assert "recipe" not in str(alone.value)
