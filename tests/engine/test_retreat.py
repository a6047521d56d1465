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


@pytest.mark.parametrize(
    ("loss", "hoped", "idle", "expected"),
    [
        pytest.param(2.67, 0.81, 2.96, True, id="died, from a start that was worse"),
        pytest.param(1.80, 0.81, 2.96, False, id="nearer to what was hoped for"),
        pytest.param(2.67, math.inf, 2.96, False, id="nothing was hoped for"),
        pytest.param(2.97, 2.96, 2.96, False, id="short runs came to nothing"),
        pytest.param(0.24, 0.20, 0.25, False, id="about as good as hoped for"),
        pytest.param(2.67, 0.81, math.inf, False, id="the loss of one answer is not known"),
    ],
)
@pytest.mark.parametrize("higher", [None, True])
def test_short_runs_tell_what_is_damage_where_the_start_is_worse(loss, hoped, idle, expected, higher) -> None:
    assert damaged(state(loss, 0.1), state(5.3, 0.17), higher, idle, hoped) is expected
