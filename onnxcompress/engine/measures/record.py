"""Record: what onnxruntime writes down of the nodes that ran."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from onnxcompress.core.places import no_temporary_files


def read_record(path: Path) -> list[dict[str, Any]]:
    """Return the events of a recorded run.

    Raises:
        OutputError: the record breaks off: onnxruntime says nothing where it cannot write it.
    """
    try:
        return list(json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except (OSError, ValueError) as error:
        raise no_temporary_files("onnxruntime's record of a run breaks off") from error
