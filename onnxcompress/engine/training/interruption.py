"""Interruption: Ctrl-C and SIGTERM wait for the end of a training step, so that its state can be saved."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_S = 1.0
"""Seconds in which a second signal is the first again: the terminal's, passed on by the program above."""


class Interruption:
    """What came while signals were held back."""

    asked = False
    """Whether one has come: save what there is, and leave."""
    _came_s = 0.0

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal down; who sends a second one does not want to wait.

        Raises:
            KeyboardInterrupt: at the second.
        """
        now = time.monotonic()
        if self.asked and now - self._came_s > _SAME_S:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._came_s = True, now

    def obey(self) -> None:
        """Leave where a signal asks for it.

        Raises:
            KeyboardInterrupt: for either signal.
        """
        if self.asked:
            raise KeyboardInterrupt


@contextmanager
def held_back(*, active: bool) -> Iterator[Interruption]:
    """Hold signals back for a while; one that came is obeyed where that ends.

    Only the main thread may, and a signal that the process ignores stays ignored.

    Args:
        active: False: hold nothing back.
    """
    found = Interruption()
    before = {}
    if active and threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {n: h for n, h in handlers.items() if h is not None and h is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, found.note)
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    found.obey()
