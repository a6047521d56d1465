"""torch's settings: ours while we compute, the caller's afterwards, also where something fails."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import onnxcompress
from onnxcompress.engine.torch_settings import own_settings

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


def settings():
    return (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.get_default_device().type,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


@pytest.fixture
def altered():
    """Let a caller have changed everything."""
    before = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        yield
    torch.set_num_threads(before[0])
    torch.set_default_dtype(before[1])


def test_settings_are_ours_within_and_the_callers_afterwards(altered):
    theirs = settings()
    assert theirs == (3, torch.float64, "meta", False, True, True)
    with own_settings(2):
        assert settings() == (2, torch.float32, "cpu", True, False, False)
    assert settings() == theirs
    with pytest.raises(RuntimeError, match="on the way"), own_settings(2):
        raise RuntimeError("on the way")
    assert settings() == theirs


@pytest.mark.parametrize(
    "options",
    [
        {"method": ["magnitude", "finetune"], "keep": 0.5, "epochs": 1.0},
        {"method": "lc-quant", "bits": 1, "steps": 2},
    ],
)
def test_a_callers_settings_change_nothing(options, tmp_path):
    def compressed(name):
        onnxcompress.compress(
            FIXTURES / "digits_mlp.onnx",
            data=FIXTURES / "digits.npz",
            data_options={"limit": 100},
            output=tmp_path / name,
            **options,
        )
        return (tmp_path / name).read_bytes()

    plain = compressed("plain.onnx")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
            assert compressed("altered.onnx") == plain
        with torch.no_grad():
            assert compressed("no_grad.onnx") == plain
            assert not torch.is_grad_enabled()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)


def test_a_second_thread_waits_and_the_same_may_go_on():
    entered, leave, order = threading.Event(), threading.Event(), []

    def first():
        with own_settings(2):
            entered.set()
            with own_settings(1):  # a function of the user's may call us
                leave.wait(10)
            order.append("first is done")

    def second():
        entered.wait(10)
        with own_settings(3):
            order.append("second is in")

    threads = [threading.Thread(target=work) for work in (first, second)]
    before = settings()
    for thread in threads:
        thread.start()
    entered.wait(10)
    threads[1].join(0.2)
    assert threads[1].is_alive()
    assert order == []
    leave.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first is done", "second is in"]
    assert settings() == before


def test_two_threads_compress_as_two_runs_in_sequence():
    def compressed(seed):
        return onnxcompress.compress(
            FIXTURES / "digits_mlp.onnx",
            method="vib",
            target="macs=0.5",
            epochs=6.0,
            data=FIXTURES / "digits.npz",
            data_options={"limit": 1000},
            seed=seed,
        ).model.SerializeToString()

    alone = [compressed(seed) for seed in (0, 1)]
    assert alone[0] != alone[1]  # random numbers count
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(compressed, (0, 1))) == alone
