"""What hangs on a group, against the analysis' own count with the group gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxcompress import importer
from onnxcompress.engine.channels import analyse
from onnxcompress.engine.channels.carried import carried, groups_along

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
SHAPES = {"image": (1, 1, 8, 8)}


@pytest.mark.parametrize("name", ["digits_mlp", "digits_cnn", "digits_lstm"])
def test_equals_the_difference_that_cutting_the_whole_group_makes(name: str) -> None:
    channels = analyse(importer.load(FIXTURES / f"{name}.onnx"), SHAPES)
    found = carried(channels)
    assert set(found) == {g.name for g in channels.groups}
    assert found
    for group in channels.groups:
        none = {group.name: np.zeros(group.size, bool)}
        assert found[group.name].parameters == channels.parameters({}) - channels.parameters(none)
        assert found[group.name].macs == channels.macs({}) - channels.macs(none)


def test_a_hidden_layer_carries_both_weights_it_lies_on() -> None:
    channels = analyse(importer.load(FIXTURES / "digits_mlp.onnx"), SHAPES)
    hidden = next(g for g in channels.groups if g.size == 128)
    carries = carried(channels)[hidden.name]
    assert carries.macs == 256 * 128 + 128 * 10
    assert carries.parameters == 256 * 128 + 128 * 10 + 128


def test_groups_along_prefer_axes_that_can_be_cut() -> None:
    channels = analyse(importer.load(FIXTURES / "digits_cnn.onnx"), SHAPES)
    along = {value.name: names for value, names in groups_along(channels).items()}
    free = {g.name for g in channels.free}
    for name, names in along.items():
        assert set(names) <= free or not set(names) & free, name
    weight = channels.value("conv2.weight")
    assert along[weight.name] == ("conv2.weight", "conv1.weight")
