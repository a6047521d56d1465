"""Labels where shapes leave open what they mean: which output they are for, one number for two classes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.errors import DataError, UsageError
from onnxcompress.engine.data import make_task, open_data
from onnxcompress.engine.data.labels import two_classes
from onnxcompress.engine.measures.metrics import metric_of
from onnxcompress.engine.runtime import open_session
from onnxcompress.engine.training.losses import OutputFacts, make_loss, with_others
from onnxcompress.engine.training.losses import two_classes as torch_two_classes

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 8)).astype(np.float32)
ALL = np.arange(400)
TWO_HEADS = (
    "h = MatMul (x, w0) r = Relu (h) a = MatMul (r, wa) b = MatMul (r, wb) c = MatMul (r, wc)",
    "float[N, 8] x",
    "float[N, 10] a, float[N, 4] b, float[N, 1] c",
    {"w0": (8, 48), "wa": (48, 10), "wb": (48, 4), "wc": (48, 1)},
)
ONE_NUMBER = {
    "logit": "h = MatMul (x, w0) r = Tanh (h) y = MatMul (r, w1)",
    "probability": "h = MatMul (x, w0) r = Tanh (h) z = MatMul (r, w1) y = Sigmoid (z)",
}


def one_number(binary):
    return proto_of(ONE_NUMBER[binary], "float[N, 8] x", "float[N, 1] y", {"w0": (8, 48), "w1": (48, 1)})


def outputs_of(model):
    return open_session(model.SerializeToString()).run({"x": X})


def opened(model, labels):
    session = open_session(model.SerializeToString())
    return open_data(
        {"x": X, "y": labels}, session.inputs, outputs=session.outputs, predict=session.run, seed=0
    )


@pytest.mark.parametrize("head", ["a", "b"])
def test_class_labels_belong_to_the_output_that_gets_them_right(head):
    model = proto_of(*TWO_HEADS)
    labels = outputs_of(model)[head].argmax(axis=1) % 4  # classes that both outputs have
    found = opened(model, labels)
    assert found.targets.output == head
    other = "b" if head == "a" else "a"
    assert any(f"those of output '{head}', not '{other}'" in note for note in found.notes)


def test_labels_beyond_one_output_are_those_of_another():
    model = proto_of(*TWO_HEADS)
    labels = outputs_of(model)["a"].argmax(axis=1)
    assert labels.max() >= 4
    found = opened(model, labels)
    assert found.targets.output == "a"
    (note,) = found.notes
    assert "those of output 'a', not 'c'" in note, "'b' has too few classes; numbers they might have been"
    with pytest.raises(DataError, match="output 'a' has 10 classes"):
        opened(model, labels + 9)


@pytest.mark.parametrize("binary", ["logit", "probability"])
def test_zeros_and_ones_name_the_classes_of_a_single_number(binary):
    model = one_number(binary)
    said = outputs_of(model)["y"][:, 0]
    labels = (said > (0 if binary == "logit" else 0.5)).astype(np.int64)
    labels[:40] = 1 - labels[:40]
    found = opened(model, labels)
    assert (found.targets.kind, found.targets.classes, found.targets.binary) == ("classes", 2, binary)
    task = make_task(found)
    assert (task.loss, task.metric) == ("ce", "top1")
    metric = metric_of("top1", found.targets)
    metric.add({"y": said[:, None]}, found.labels(ALL))
    assert metric.value() == pytest.approx(0.9)
    assert make_task(found, loss="mse").loss == "mse"


def test_a_regression_of_zeros_and_ones_stays_one():
    body = (
        "h = MatMul (x, w0) r = Tanh (h) z = MatMul (r, w1) s = Sigmoid (z) "
        "d = Mul (s, wide) y = Sub (d, tenth)"
    )
    weights = {"w0": (8, 48), "w1": (48, 1)}
    numbers = {"wide": np.array(1.2, np.float32), "tenth": np.array(0.1, np.float32)}
    model = proto_of(body, "float[N, 8] x", "float[N, 1] y", weights | numbers)
    said = outputs_of(model)["y"][:, 0]
    assert said.min() < 0
    found = opened(model, (said > 0.5).astype(np.int64))
    assert (found.targets.kind, found.targets.binary) == ("values", None)
    assert make_task(found).loss == "mse"


def test_other_numbers_are_values_of_a_single_output():
    found = opened(one_number("logit"), np.arange(400) % 3)
    assert (found.targets.kind, found.targets.binary) == ("values", None)


@pytest.mark.parametrize("binary", ["logit", "probability"])
def test_the_loss_of_a_single_number_is_binary_cross_entropy(binary):
    torch.manual_seed(0)
    one, labels = torch.randn(30, 1), torch.randint(0, 2, (30,))
    one = one if binary == "logit" else one.sigmoid()
    loss = make_loss("ce", OutputFacts({"y": 1.0}, frozenset(), "y", binary), True)
    closed = F.binary_cross_entropy_with_logits if binary == "logit" else F.binary_cross_entropy
    torch.testing.assert_close(loss({"y": one}, labels, None), closed(one[:, 0], labels.float()))
    np.testing.assert_allclose(torch_two_classes(one, binary), two_classes(one.numpy(), binary), rtol=1e-6)


def test_one_number_has_no_divergence():
    loss = make_loss("kl", OutputFacts({"y": 1.0}, frozenset(), None), False)
    with pytest.raises(UsageError, match=r"several classes.*use l2"):
        loss({"y": torch.ones(4, 1)}, None, {"y": torch.zeros(4, 1)})


def test_masks_that_are_one_hot_along_the_channels_are_classes():
    body = "y = Conv <kernel_shape = [1, 1]> (x, w)"
    model = proto_of(body, "float[N, 2, 6, 6] x", "float[N, 3, 6, 6] y", {"w": (3, 2, 1, 1)})
    x = RNG.normal(size=(12, 2, 6, 6)).astype(np.float32)
    session = open_session(model.SerializeToString())
    numbers = session.run({"x": x})["y"].argmax(axis=1)
    masks = np.moveaxis(np.eye(3, dtype=np.float32)[numbers], -1, 1)
    found = open_data({"x": x, "y": masks}, session.inputs, outputs=session.outputs, predict=session.run)
    assert (found.targets.kind, found.targets.classes) == ("classes", 3)
    np.testing.assert_array_equal(found.labels(np.arange(12)), numbers)


def test_outputs_that_labels_say_nothing_of_are_held_to_the_original():
    torch.manual_seed(0)
    facts = OutputFacts({"a": 1.0, "b": 4.0, "c": 0.25}, frozenset(), "a")
    outputs, teacher = ({n: torch.randn(9, 3) for n in "abc"} for _ in range(2))
    labels = torch.randint(0, 3, (9,))
    plain = make_loss("ce", facts, True)
    guarded = with_others(plain, facts)
    lost = [F.mse_loss(outputs[n], teacher[n]) / variance for n, variance in (("b", 4), ("c", 0.25))]
    # Beyond three tenths of the variance it is the logarithm that counts.
    bounded = [0.3 * torch.log(1 + share / 0.3) for share in lost]
    expected = plain(outputs, labels, teacher) + sum(bounded) / 2
    torch.testing.assert_close(guarded(outputs, labels, teacher), expected)
    assert guarded.name == "ce+l2 of 'b', 'c'"
    assert guarded.needs_teacher
    assert with_others(plain, OutputFacts({"a": 1.0}, frozenset(), "a")) is plain
    # A little that is lost counts in full.
    near = {**outputs, "b": teacher["b"] + 0.01, "c": teacher["c"]}
    rest = guarded(near, labels, teacher) - plain(near, labels, teacher)
    assert float(rest) == pytest.approx(0.01**2 / 4 / 2, rel=1e-2)


@pytest.mark.parametrize(
    ("methods", "options"),
    [
        (["magnitude", "finetune"], {"keep": 0.6, "epochs": 12}),
        (["vib"], {"target": "macs=0.6", "epochs": 4, "after": 8}),
        (["lc-quant"], {"bits": 2, "steps": 12}),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, list) else "",
)
def test_training_on_the_labels_of_one_head_does_not_lose_the_others(methods, options):
    model = proto_of(*TWO_HEADS)
    x = RNG.normal(size=(1200, 8)).astype(np.float32)
    before = open_session(model.SerializeToString()).run({"x": x})
    data = {"x": x, "y": before["a"].argmax(axis=1)}

    def lost(**more):
        result = onnxcompress.compress(model, data=data, method=methods, **options, **more)
        after = open_session(result.model.SerializeToString()).run({"x": x})
        return max(float(np.mean((after[n] - before[n]) ** 2) / before[n].var()) for n in "bc")

    held, free = lost(), lost(data_options={"loss": "ce"})
    assert held < 0.5
    assert held < free / 1.5


def test_importances_see_what_only_other_heads_read():
    """The second half of the hidden layer feeds b alone, of which labels say nothing."""
    halves = {"wa": np.zeros((48, 10), np.float32), "wb": np.zeros((48, 4), np.float32)}
    halves["wa"][:24], halves["wb"][24:] = RNG.normal(size=(24, 10)), RNG.normal(size=(24, 4))
    model = proto_of(*TWO_HEADS[:3], TWO_HEADS[3] | halves | {"wc": np.zeros((48, 1), np.float32)})
    labels = outputs_of(model)["a"].argmax(axis=1)
    result = onnxcompress.compress(
        model, data={"x": X, "y": labels}, method="magnitude", importance="taylor", keep=0.5, round_to=1
    )
    weights = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert weights["w0"].shape == (8, 24)
    assert np.any(weights["wb"] != 0, axis=1).sum() >= 6
