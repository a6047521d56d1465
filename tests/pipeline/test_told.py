"""Sentences about a compression as a whole: said where they are true, and only there."""

import pytest

from onnxcompress.core.run import Accuracy
from onnxcompress.pipeline._told import labels_doubtful


def accuracy(before, trivial, examples=1000, metric="top1"):
    return Accuracy(metric, metric != "mse", before, before, "test", examples, trivial)


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (accuracy(0.98, 0.1), False),
        (accuracy(0.03, 0.1), True),
        (accuracy(0.33, 1 / 3), True),
        (accuracy(0.03, 0.1, examples=10), False),  # too few to say anything
        (accuracy(1.0, 1.0), False),  # one class only
        (accuracy(0.945, 0.95), False),  # as good as the most frequent class, within chance
        (accuracy(0.6, 0.95), True),
        (accuracy(0.1, None), False),
        (accuracy(0.2, 1.5, metric="mse"), False),
        (accuracy(27.0, 8.0, metric="mse"), True),
        (accuracy(0.0, 0.0, metric="mse"), False),
        (None, False),
    ],
)
def test_labels_are_doubted_where_one_answer_to_all_is_no_worse(measured, said):
    assert bool(labels_doubtful(measured)) == said
