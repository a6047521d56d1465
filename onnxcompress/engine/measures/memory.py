"""Resident memory of this process, in bytes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil


def resident_bytes() -> int:
    """Return what is resident now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Let ``peak_bytes`` start anew, where the system can (Linux)."""
    # 5 resets VmHWM. ru_maxrss would not do: it survives exec, and so holds the size of the parent.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Return the largest resident size since ``reset_peak``; 0 where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
