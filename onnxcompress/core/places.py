"""Places: whether a file can be written somewhere, asked before anything is computed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from onnxcompress.core.errors import OutputError


def require_place(path: Path, noun: str, *, replaced: bool = True) -> None:
    """Raise OutputError where ``path`` cannot become a file.

    Args:
        path: where it is wanted.
        noun: what it would be: "the report".
        replaced: it takes the place of what is there, which must not be a device or a pipe then.
    """

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
    if replaced and path.exists() and not path.is_file():
        raise refused("a device or pipe is there, which a file would replace", "name a file")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise refused(f"there is no folder '{path.parent}'", "create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise refused(f"folder '{path.parent}' is not writable")


def require_folder(path: Path, noun: str) -> None:
    """Raise OutputError where ``path`` is no folder and cannot become one; ``noun`` is what it would hold."""
    there = path
    why: str | None
    try:
        while not there.exists() and there.parent != there:
            there = there.parent
        if not there.is_dir():
            why = "it is not a folder" if there == path else f"'{there}' is not a folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            why = f"folder '{there}' is not writable"
        else:
            return
    except OSError as error:  # its name is too long, or a folder above it must not be read
        why = error.strerror
    raise OutputError(f"cannot keep {noun}", where=str(path), why=why)


def no_temporary_files(why: str) -> OutputError:
    """Return what is raised where a temporary file could not be written; ``why`` is what was noticed."""
    return OutputError(
        "cannot write temporary files",
        where=tempfile.gettempdir(),
        why=why,
        fix="make room there, or let TMPDIR name another folder",
    )
