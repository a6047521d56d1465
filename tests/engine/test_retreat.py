"""What counts as damage."""

import math

import pytest

from onnxcompress.engine.training.evaluation import Evaluation
from onnxcompress.engine.training.retreat import DAMAGE, damaged


def state(loss: float, share: float | None = None) -> Evaluation:
    return Evaluation(loss, share, 1000)


@pytest.mark.parametrize(
    ("found", "best", "higher", "idle", "expected"),
    [
        pytest.param(state(0.99 * DAMAGE), state(1.0), None, math.inf, False, id="a hump"),
        pytest.param(state(1.01 * DAMAGE), state(1.0), None, math.inf, True, id="a loss over the factor"),
        pytest.param(state(math.nan), state(1.0), None, math.inf, True, id="no number"),
        pytest.param(state(5.0), state(0.0), None, math.inf, False, id="nothing can be measured by zero"),
        pytest.param(state(2.0, 0.90), state(0.5, 0.905), True, 2.3, False, id="equal but for chance"),
        pytest.param(state(2.0, 0.60), state(0.5, 0.905), True, 2.3, True, id="fewer right"),
        pytest.param(state(2.0, 0.99), state(0.5, 0.905), True, 2.3, False, id="more right, less sure"),
        pytest.param(state(1e6, 0.117), state(10.5, 0.092), True, 2.3, True, id="better guesses"),
        pytest.param(state(1e6, 0.092), state(10.5, 0.092), True, 2.3, True, id="equal guesses"),
        pytest.param(state(5.0, 0.099), state(10.5, 0.092), True, 2.3, False, id="bad, but less so"),
        pytest.param(state(math.nan, 0.9), state(0.5, 0.9), True, 2.3, True, id="no number with a share"),
    ],
)
def test_damage(found, best, higher, idle, expected) -> None:
    assert damaged(found, best, higher, idle) is expected
