import pytest

from onnxcompress.cli._options import data_options, parse_shapes
from onnxcompress.core.errors import UsageError


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("x:1,3,224,224", {"x": (1, 3, 224, 224)}),
        ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),
        ("serving_default_input_2:0:4,43844,1", {"serving_default_input_2:0": (4, 43844, 1)}),
        ("sr:", {"sr": ()}),
    ],
)
def test_shapes_are_read(spec, expected):
    assert parse_shapes((spec,)) == expected


def test_shapes_of_two_inputs_are_read():
    assert parse_shapes(("x:1,2", "y:1,2")) == {"x": (1, 2), "y": (1, 2)}


@pytest.mark.parametrize("spec", ["1,3,224,224", "x:a,b", "x:1,-3", ":1,2"])
def test_bad_shapes_are_refused_with_the_form_to_use(spec):
    with pytest.raises(UsageError, match="NAME:1,3,224,224"):
        parse_shapes((spec,))


def flags(**given):
    keys = (
        "data",
        "labels",
        "limit",
        "val",
        "loss",
        "metric",
        "scale",
        "mean",
        "std",
        "image_size",
        "layout",
        "color",
    )
    return {**dict.fromkeys(keys), **given}


def test_fractions_and_lists_are_understood():
    read = data_options(flags(data="a.npz", scale="1/255", mean="0.5,0.4", image_size="32x64"))
    assert read == {"path": "a.npz", "scale": 1 / 255, "mean": (0.5, 0.4), "image_size": (32, 64)}


def test_flags_that_were_not_given_do_not_hide_the_recipe():
    assert data_options(flags()) == {}


@pytest.mark.parametrize("given", [{"scale": "a"}, {"mean": "1,,2"}, {"image_size": "big"}])
def test_numbers_that_are_none_are_refused(given):
    with pytest.raises(UsageError, match="cannot read --"):
        data_options(flags(**given))
