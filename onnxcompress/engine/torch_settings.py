"""torch's settings that hold for a whole thread or process: ours while we compute, the caller's afterwards.

A notebook may have gradients off, another type or device for new tensors, and threads for its own training.
Some of it, and the generator that random numbers are drawn from, there is once a process: whoever computes
does so alone, or two threads that compress at once would draw each other's numbers.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_ALONE = threading.RLock()
"""Held while we compute; by the same thread again where a function of the user's calls us."""


@contextmanager
def own_settings(threads: int) -> Iterator[None]:
    """Compute as in a fresh process, with gradients, in float32 on the CPU unless told otherwise.

    Other threads that want to wait until this one is done.

    Args:
        threads: CPU threads; left alone, torch takes every core, and waits for busy ones.
    """
    with ExitStack() as stack:
        stack.enter_context(_ALONE)
        threads_before, type_before = torch.get_num_threads(), torch.get_default_dtype()
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":  # as a context, even that of the CPU slows every call
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_num_threads, threads_before)
        stack.callback(torch.set_default_dtype, type_before)
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)
        yield
