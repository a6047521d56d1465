import sys
import threading

import pytest

from onnxcompress.core.registry import Registry


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    package = tmp_path / "plugged"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from onnxcompress.core.registry import Registry\nR = Registry('plugged', 'thing')\n"
    )
    (package / "one.py").write_text("from plugged import R\nR.add('one', 1)\n")
    (package / "_private.py").write_text("raise RuntimeError('private modules hold no plug-ins')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package
    for name in [n for n in sys.modules if n.split(".")[0] == "plugged"]:
        del sys.modules[name]


def test_every_public_module_of_the_folder_is_found(plugins):
    import plugged

    assert dict(plugged.R) == {"one": 1}


def test_a_new_file_is_all_it_takes(plugins):
    (plugins / "two.py").write_text("from plugged import R\n@R.register('two')\ndef f(): ...\n")
    import plugged

    assert sorted(plugged.R) == ["one", "two"]


def test_registering_twice_is_an_error():
    registry: Registry[str, int] = Registry("plugged", "thing")
    registry.add("a", 1)
    with pytest.raises(RuntimeError, match="thing 'a' is registered twice"):
        registry.add("a", 2)


def test_a_second_thread_waits_until_all_is_found(plugins):
    (plugins / "two.py").write_text(
        "import time\nfrom plugged import R\nassert 'one' in R\ntime.sleep(0.3)\nR.add('two', 2)\n"
    )
    import plugged

    found = []
    threads = [threading.Thread(target=lambda: found.append(sorted(plugged.R))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [["one", "two"]] * 3
