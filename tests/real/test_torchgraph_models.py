"""The torch graph on real models: outputs against onnxruntime, one training step, written back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from PIL import Image, ImageDraw

from onnxcompress import importer
from onnxcompress.core.model import Model, constant_of
from onnxcompress.engine import runtime
from onnxcompress.engine.graph.torchgraph import TorchGraph

SHARED = Path(__file__).resolve().parents[3] / "shared"
MODELS = SHARED / "models"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODELS.is_dir(), reason="the folder ../shared with real models is missing"),
]

SHAPES = {
    "ppocr_cls_v2": {"x": (1, 3, 48, 192)},
    "ppocr_det_v3": {"x": (1, 3, 256, 256)},
    "ppocr_rec_en_num": {"x": (1, 3, 32, 100)},
    "silero_vad_v62": {"input": (1, 576), "state": (2, 1, 128)},
}
"""Sizes for dimensions that are not fixed and cannot be 1."""

PHOTOS = {
    "espcn_nn_resize": "unit",
    "fastestdet": "unit",
    "fns_candy": "bytes",
    "ppocr_cls_v2": "symmetric",
    "ppocr_det_v3": "standard",
    "ppocr_rec_en_num": "symmetric",
    "squeezenet_fp16": "bgr",
    "super_resolution": "grey",
    "ultraface_rfb320": "symmetric",
    "ultraface_rfb320_nopost": "symmetric",
    "yolox_nano": "bytes",
    "yunet_120x160": "bytes",
}
"""Models that see photographs, and how the pixels are prepared."""

DIGITS = {"lenet300_lc_reference": 255.0, "mnist_cntk": 1.0, "mnist_quantized": 1.0}
"""Models that see handwritten digits, and what the pixel values are divided by."""

LOADABLE = (
    sorted(p.stem for p in MODELS.glob("*.onnx") if p.stem != "pcb_aoi") if MODELS.is_dir() else ["missing"]
)


def load(name):
    path = MODELS / f"{name}.onnx"
    return path, importer.load(path)


def random_feeds(name, session, seed=0):
    generator = np.random.default_rng(seed)
    feeds = {}
    for info in session.inputs:
        declared = [d if isinstance(d, int) else 1 for d in info.shape]
        shape = SHAPES.get(name, {}).get(info.name, tuple(declared))
        if info.name == "sr":
            feeds[info.name] = np.array(16000)
        elif info.numpy.kind == "f":
            feeds[info.name] = np.asarray(generator.standard_normal(shape)).astype(info.numpy)
        else:
            feeds[info.name] = generator.integers(0, 256, shape).astype(info.numpy)
    return feeds


def photo(kind, shape):
    image = Image.open(SHARED / "data" / "imagenet_sample" / "n01440764" / "0000.jpg").convert("RGB")
    ImageDraw.Draw(image).text((20, 90), "HELLO 2026", fill="white", stroke_width=2, font_size=40)
    pixels = np.asarray(image.resize(shape[:1:-1])).astype(np.float32).transpose(2, 0, 1)[None]
    if kind == "bgr":
        return pixels[:, ::-1] - np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1)
    if kind == "grey":
        return pixels.mean(1, keepdims=True) / 255
    if kind == "standard":
        return (pixels / 255 - 0.45) / 0.225
    return {"unit": pixels / 255, "symmetric": (pixels - 127) / 128, "bytes": pixels}[kind]


def real_feeds(name, session):
    """Return inputs of the kind the model was made for; None where there is no such data here."""
    info = session.inputs[0]
    if name in PHOTOS:
        shape = SHAPES.get(name, {}).get(info.name) or tuple(
            d if isinstance(d, int) else 1 for d in info.shape
        )
        return {info.name: np.ascontiguousarray(photo(PHOTOS[name], shape)).astype(info.numpy)}
    if name in DIGITS:
        with np.load(SHARED / "data" / "mnist.npz") as data:
            digit = data["x_test"][:1]
        return {info.name: (digit / DIGITS[name]).astype(np.float32).reshape(1, 1, 28, 28)}
    if name == "cifar_cnn_tutorial":
        with np.load(SHARED / "data" / "cifar10_subset.npz") as data:
            image = data["x_test"][:1]
        return {info.name: ((image / 255 - 0.5) / 0.5).astype(np.float32).transpose(0, 3, 1, 2)}
    return None


def relative_error(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if expected.dtype.kind != "f":
        return float(not np.array_equal(found, expected))
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def compare(found, expected, tolerance=1e-4):
    for name, want in expected.items():
        got = found[name]
        if isinstance(want, list):  # maps of class scores
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                assert a.keys() == b.keys()
                assert all(abs(a[k] - b[k]) < 1e-5 for k in b)
        else:
            assert relative_error(got, want) <= tolerance, name


@pytest.mark.parametrize("name", LOADABLE)
def test_outputs_equal_onnxruntime(name):
    path, model = load(name)
    session, graph = runtime.open_session(path), TorchGraph(model)
    # Random numbers make this text detector answer 1e-7 everywhere: nothing to compare but rounding.
    cases = [random_feeds(name, session)] if name != "ppocr_det_v3" else []
    cases += [feeds for feeds in [real_feeds(name, session)] if feeds is not None]
    for feeds in cases:
        compare(graph.run(feeds), session.run(feeds))


SLOW = ("fns_candy", "dnsmos_sig_bak_ovr", "super_resolution", "basic_pitch")
TRAINED = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in LOADABLE]


@pytest.mark.parametrize("name", TRAINED)
def test_one_step_changes_the_weights_and_is_written_back(name):
    path, model = load(name)
    session, graph = runtime.open_session(path), TorchGraph(model)
    feeds = real_feeds(name, session) or random_feeds(name, session)
    before = graph.arrays()
    outputs = graph(feeds)
    floats = [o for o in outputs.values() if o.is_floating_point()]
    loss = sum((o - o.detach() * 0.9).pow(2).mean() for o in floats)
    loss.backward()
    stopped = {refusal.where for refusal in graph.without_gradient()}
    moved = {n for n in graph.trainable if graph.weight(n).grad is not None}
    if name != "silero_vad_v62":  # one of two branches runs
        assert moved | stopped >= set(graph.trainable)
    with torch.no_grad():
        for n in moved:
            size = graph.weight(n).grad.abs().max().clamp(min=1e-12)
            graph.weight(n).sub_(1e-3 * graph.weight(n).grad / size)
    after = graph.arrays()
    assert {n for n in after if not np.array_equal(after[n], before[n])} <= moved
    changed = importer.load(path).ir
    weights = Model(changed, model.source).weights
    for n in moved:
        write(weights[n].value, after[n])
    expected = runtime.open_session(ir.to_proto(changed).SerializeToString()).run(feeds)
    if after and next(iter(after.values())).dtype == np.float16:
        graph.set_arrays(after)  # what is stored is rounded
    compare(graph.run(feeds), expected, 1e-3)


def write(value, array):
    tensor = constant_of(value)
    fresh = ir.Tensor(array, dtype=tensor.dtype, name=value.name)
    if value.is_initializer():
        value.const_value = fresh
    else:
        value.producer().attributes["value"] = ir.AttrTensor("value", fresh)


def test_a_changed_weight_is_seen_in_the_outputs():
    path, model = load("lenet300_lc_reference")
    session, graph = runtime.open_session(path), TorchGraph(model)
    feeds = real_feeds("lenet300_lc_reference", session)
    name = next(n for n in graph.trainable if model.weights[n].size > 1000)
    graph.set_arrays({name: model.array(name) * np.float32(1.01)})
    with pytest.raises(AssertionError):
        compare(graph.run(feeds), session.run(feeds))


def test_both_branches_of_the_voice_detector_train_their_lstm():
    _, model = load("silero_vad_v62")
    graph = TorchGraph(model)
    nested = [n for n in graph.trainable if "_branch/" in n]
    assert len({n.split("_branch/")[0] for n in nested}) >= 1
    assert graph.without_gradient() == ()
    generator = np.random.default_rng(0)
    for rate, length in ((16000, 576), (8000, 288)):
        graph.zero_grad()
        feeds = {
            "input": generator.standard_normal((1, length)).astype(np.float32),
            "state": np.zeros((2, 1, 128), np.float32),
            "sr": np.array(rate),
        }
        sum(o.sum() for o in graph(feeds).values()).backward()
        recurrent = [n for n in nested if graph.weight(n).grad is not None and graph.weight(n).dim() == 3]
        assert len(recurrent) >= 2, rate


@pytest.mark.parametrize("name", ["mnist_cntk", "cifar_cnn_tutorial", "ultraface_rfb320", "yolox_nano"])
def test_batches_run_at_once(name):
    _, model = load(name)
    assert TorchGraph(model).batchable()
