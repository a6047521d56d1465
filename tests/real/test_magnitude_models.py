"""On real models half of the channels that may be cut go at one half, and what stays has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxcompress import importer
from onnxcompress.core.resources import Resources
from onnxcompress.engine import feeds, runtime
from onnxcompress.engine.channels import analyse
from onnxcompress.methods.dead import DeadChannels
from onnxcompress.methods.magnitude import Magnitude

MODELS = Path(__file__).resolve().parents[3] / "shared" / "models"
NAMES = [
    "cifar_cnn_tutorial", "digits_mlp", "espcn_nn_resize", "fastestdet", "lenet300_lc_reference",
    "mnist_cntk", "speech_recog", "squeezenet_fp16", "super_resolution", "ultraface_rfb320_nopost",
    "yunet_120x160",
]  # fmt: skip

pytestmark = pytest.mark.real


@pytest.mark.parametrize("name", NAMES)
def test_half_of_the_channels_go(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    if not path.exists():
        pytest.skip("the folder ../shared with real models is missing")
    model = importer.load(path)
    shapes = feeds.resolve_shapes(model, runtime.open_session(path), {})
    resources = Resources(input_shapes=shapes)
    channels = analyse(model, shapes)
    plan = Magnitude(keep=0.5).plan(model, None, resources)
    free = sum(g.size for g in channels.free)
    assert sum(int((~mask).sum()) for mask in plan.keep.values()) >= free / 2
    told = {*plan.keep, *(r.where for r in plan.refusals)}
    assert all(group.name in told for group in channels.groups), "a group is neither cut nor refused"
    assert channels.macs(plan.keep) < 0.6 * channels.macs({})
    assert not DeadChannels().plan(model, None, resources).keep
    met = Magnitude(target="macs=0.5", scope="joint").plan(model, None, resources)
    assert 0.2 < channels.macs(met.keep) / channels.macs({}) <= 0.5
