"""Training time: what a limit on the training of a whole chain leaves for each of its methods."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from onnxcompress.methods._base import Method


class TrainingTime:
    """A limit that the methods of a chain share.

    Each that trains gets the part of what is left that falls to it, and what it leaves unused goes to those
    after it. Beyond its part a method no longer trains, but it may still decide, fold and measure: that is
    not held against the others, or a slow method would leave the next one nothing. Methods that do not train
    get what is left and use none of it up.

    Args:
        limit_s: of the whole chain; None: there is no limit.
        methods: the chain, in the order it runs.
        clock: tells seconds.
    """

    def __init__(
        self,
        limit_s: float | None,
        methods: Sequence[Method],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._left, self._clock = limit_s, clock
        self._to_come = sum(method.trains for method in methods)

    @contextlib.contextmanager
    def given_to(self, method: Method) -> Iterator[float | None]:
        """Give the next method its seconds for as long as it runs; None: no limit."""
        if self._left is None or not method.trains:
            yield self._left
            return
        share, began = self._left / self._to_come, self._clock()
        yield share
        self._left -= min(self._clock() - began, share)
        self._to_come -= 1
