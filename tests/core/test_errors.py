import doctest
import inspect

import pytest

from onnxcompress.core import errors

TREE = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, errors.OnnxCompressError)]


@pytest.mark.parametrize("error", TREE, ids=lambda e: e.__name__)
def test_every_error_of_the_tree_is_drawn_with_its_exit_code(error):
    drawn = [line for line in errors.__doc__.splitlines() if error.__name__ in line]
    assert len(drawn) == 1
    if "exit code" in drawn[0]:
        assert f"exit code {error.exit_code} " in drawn[0]


def test_a_message_is_one_sentence_of_its_parts():
    assert doctest.testmod(errors).failed == 0
    assert str(errors.DataError("no labels", fix="give --labels")) == "no labels; give --labels"


def test_an_import_error_tells_all_problems():
    error = errors.ModelImportError("a.onnx", ["node 'x' has no output", "weight 'w' holds NaN"])
    assert "node 'x' has no output" in str(error)
    assert "weight 'w' holds NaN" in str(error)
    assert error.exit_code == 4
