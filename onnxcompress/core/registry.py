"""Plug-in folders: every module in a folder registers what it defines; nothing is listed by hand."""

from __future__ import annotations

import importlib
import pkgutil
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Generic, TypeVar

# One lock for all: the modules of one registry may look into another.
_DISCOVERING = threading.RLock()

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Registry(Mapping[K, V], Generic[K, V]):
    """Entries by key, filled on first use by importing every module of one package.

    Args:
        package: dotted name of the plug-in folder; modules whose name starts with ``_`` hold no plug-ins.
        noun: what an entry is, for messages ("method", "encoding").
    """

    def __init__(self, package: str, noun: str) -> None:
        self._package = package
        self._noun = noun
        self._entries: dict[K, V] = {}
        self._complete = self._under_way = False

    def add(self, key: K, entry: V) -> V:
        """Register ``entry``; registering a key twice is a programming error."""
        if key in self._entries:
            raise RuntimeError(f"{self._noun} {key!r} is registered twice")
        self._entries[key] = entry
        return entry

    def register(self, key: K) -> Callable[[V], V]:
        """Return a decorator that registers what it decorates under ``key``."""
        return lambda entry: self.add(key, entry)

    def _discover(self) -> None:
        if self._complete:
            return
        with _DISCOVERING:
            if (
                self._complete or self._under_way
            ):  # another thread was first, or a plug-in looks at what there is
                return
            self._under_way = True
            try:
                package = importlib.import_module(self._package)
                for module in sorted(m.name for m in pkgutil.iter_modules(package.__path__)):
                    if not module.startswith("_"):
                        importlib.import_module(f"{self._package}.{module}")
                self._complete = True
            finally:  # after an import that failed, the next look fails likewise
                self._under_way = False

    def __getitem__(self, key: K) -> V:
        self._discover()
        return self._entries[key]

    def __iter__(self) -> Iterator[K]:
        self._discover()
        return iter(self._entries)

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)
