"""Ctrl-C and SIGTERM while training: the state is saved first, and a resumed run has the same bits."""

from __future__ import annotations

import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
from pruning_models import mlp, task_for

from onnxcompress.core.resources import Resources
from onnxcompress.engine.training.interruption import held_back
from onnxcompress.methods.finetune import Finetune
from onnxcompress.methods.lc_quant import LcQuant
from onnxcompress.methods.vib import Vib

METHODS = {
    "vib": Vib(epochs=4.0, after=3.0, target="params=0.5", batch_size=64, round_to=1),
    "lc-quant": LcQuant(bits=2, steps=4, epochs=2.0, batch_size=64),
    "finetune": Finetune(epochs=3.0, batch_size=64),
}


@pytest.fixture(autouse=True)
def usual_signals():
    """What a program in the foreground does; in the background of a script SIGINT is ignored."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def given():
    rng = np.random.default_rng(1)
    model = mlp(rng.normal(size=(24, 6)), rng.normal(size=(3, 24)))
    return model, task_for((6,), 3, labelled=True, count=400, label=lambda x: int(np.argmax(x[:3])))


def decoded(plan):
    return {n: e.decode().tobytes() for n, e in {**plan.values, **plan.weights}.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", METHODS)
def test_the_state_is_saved_in_the_middle_of_an_epoch(name, number, given, tmp_path, monkeypatch):
    # Told after every step; the first save by the clock would come after 30 s.
    monkeypatch.setattr("onnxcompress.engine.training.loop._SHOW_EVERY_S", -1.0)
    method, resources = METHODS[name], Resources(input_shapes={"x": (1, 6)})
    all_told: list[str] = []
    whole = method.plan(*given, replace(resources, progress=lambda f, words, p: all_told.append(words)))
    told = []

    def progress(fraction, words, point):
        told.append(words)
        if "epoch" in words and "loss" in words and sum("loss" in w for w in told) == 9:
            signal.raise_signal(number)

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    kept = replace(resources, checkpoint_dir=tmp_path, progress=progress)
    with pytest.raises(KeyboardInterrupt):
        method.plan(*given, kept)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert list(tmp_path.rglob("*.npz"))
    again = []
    resumed = replace(kept, resume=True, progress=lambda f, words, p: again.append(words))
    assert decoded(method.plan(*given, resumed)) == decoded(whole)
    assert len(again) < len(all_told) - 5  # it did not begin anew


def test_without_a_folder_nothing_is_held_back(given):
    def progress(fraction, words, point):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    METHODS["vib"].plan(*given, Resources(input_shapes={"x": (1, 6)}, progress=progress))


def signalled(times):
    """Return how many of so many signals did not lead away at once."""
    noted = []
    try:
        with held_back(active=True):
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
                noted.append(True)
    except KeyboardInterrupt:
        return len(noted), "left"
    return len(noted), "stayed"


def test_what_came_is_obeyed_at_the_end_and_the_second_at_once(monkeypatch):
    assert signalled(0) == (0, "stayed")
    assert signalled(1) == (1, "left")
    # Twice at once is one signal that a program above passes on.
    assert signalled(3) == (3, "left")
    monkeypatch.setattr("onnxcompress.engine.training.interruption._SAME_S", -1.0)
    assert signalled(3) == (1, "left")


def test_what_a_process_ignores_stays_ignored_and_only_the_main_thread_holds_back():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back(active=True) as found:
            signal.raise_signal(signal.SIGINT)
        assert not found.asked
    finally:
        signal.signal(signal.SIGINT, before)
    seen = []

    def elsewhere():
        with held_back(active=True):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
