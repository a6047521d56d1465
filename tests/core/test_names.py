"""Free names."""

from onnxcompress.core.names import free_name


def test_a_free_name_is_new_and_taken():
    used = {"a", "a_2"}
    assert [free_name("a", used), free_name("a", used), free_name("b", used)] == ["a_3", "a_4", "b"]
    assert used == {"a", "a_2", "a_3", "a_4", "b"}
    assert free_name("a", used, "#") == "a#2"
