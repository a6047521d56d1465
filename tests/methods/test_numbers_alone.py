"""Numbers on their own: weights and inputs without an axis."""

import numpy as np
import pytest
from text_graphs import proto_of

import onnxcompress
from onnxcompress.core.resources import Resources

RNG = np.random.default_rng(0)
GELU = "a = MatMul (x, w1) b = Erf (a) c = Mul (a, b) d = Mul (c, half) y = MatMul (d, w2)"
TRAINING = [
    ("vib", {"target": "macs=0.5", "epochs": 1, "after": 1}),
    ("lc-quant", {"bits": 2, "steps": 2}),
    ("lc-lowrank", {"rank": "4", "steps": 2}),
]


@pytest.mark.parametrize(("method", "options"), TRAINING, ids=[m for m, _ in TRAINING])
def test_a_network_with_a_number_as_weight_is_resumed(tmp_path, method, options):
    weights = {"w1": (20, 64), "w2": (64, 4), "half": np.array(0.5, np.float32)}
    model = proto_of(GELU, "float[N, 20] x", "float[N, 4] y", weights)
    data = {"x": RNG.normal(size=(80, 20)).astype(np.float32)}

    def digest(resume):
        resources = Resources(checkpoint_dir=tmp_path, resume=resume)
        return onnxcompress.compress(model, data=data, method=method, resources=resources, **options)

    first, again = digest(False), digest(True)
    assert first.model.SerializeToString() == again.model.SerializeToString()


@pytest.mark.parametrize(
    ("method", "options"), [("magnitude", {"keep": 0.5}), *TRAINING[:2], ("int8", {"way": "static"})]
)
def test_an_input_without_an_axis_is_fed_as_it_is(tmp_path, method, options):
    body = "a = MatMul (x, w1) b = Mul (a, s) c = Relu (b) y = MatMul (c, w2)"
    model = proto_of(body, "float[N, 20] x, float s", "float[N, 4] y", {"w1": (20, 48), "w2": (48, 4)})
    data = tmp_path / "data.npz"
    np.savez(data, x=RNG.normal(size=(30, 1, 20)).astype(np.float32), s=RNG.random(30).astype(np.float32))
    run = onnxcompress.compress(model, data=data, method=method, **options).run
    assert run.comparisons[0].passed is not False
    assert run.comparisons[0].outputs[0].relative_l2 < 1.5
