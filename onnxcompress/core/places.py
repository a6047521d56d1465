"""Places: whether a file can be written somewhere, asked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from onnxcompress.core.errors import OutputError


def require_place(path: Path, noun: str) -> None:
    """Raise OutputError where ``path`` cannot become a file; ``noun`` says what it would be: "the report"."""

    def refused(why: str | None, fix: str | None = None) -> OutputError:
        return OutputError(f"cannot write {noun}", where=str(path), why=why, fix=fix)

    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # the name is too long, or nobody may look into the folder
        raise refused(error.strerror) from error
    if path.is_dir():
        raise refused("it is a folder", "name a file in it")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise refused(f"there is no folder '{path.parent}'", "create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refused(f"folder '{path.parent}' is not writable")
